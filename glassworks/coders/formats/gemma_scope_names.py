"""The names of Gemma Scope 2: a grammar, in the place of a registry of thousands of lines.

Families, layers, widths, L0 classes and affine variants combine in a regular way; the few coders that were never
uploaded are listed as holes. This module must not know how a file is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from glassworks.errors import NotFound, nearest


@dataclass(frozen=True)
class Size:
    """A base model of Gemma Scope 2.

    Attributes:
        layers: how many.
        subset: the four layers with coders of every width.
    """

    layers: int
    subset: tuple[int, int, int, int]


SIZES = {
    "270m": Size(18, (5, 9, 12, 15)),
    "1b": Size(26, (7, 13, 17, 22)),
    "4b": Size(34, (9, 17, 22, 29)),
    "12b": Size(48, (12, 24, 31, 41)),
    "27b": Size(62, (16, 31, 40, 53)),
}
TUNINGS = ("pt", "it")
RANGES = {"small": (10, 20), "medium": (30, 60), "big": (60, 150)}
BIG_EVERYWHERE = (60, 120)
"""`big` is another target in the folders that have every layer."""

CLASSES = ("small", "medium", "big")
AFFINE = ("", "_affine")


def target(l0: str, layer: int, layers: int, everywhere: bool) -> int:
    """The L0 that a coder was trained for: a ramp over the first third of the layers, then level.

    Args:
        l0: small, medium or big.
        layer: which layer it reads.
        layers: how many the model has.
        everywhere: whether it is of a folder `..._all`.
    """
    low, high = BIG_EVERYWHERE if everywhere and l0 == "big" else RANGES[l0]
    return int(low + (high - low) * min(1.0, layer / (layers / 3)))


def names(size: str, tuning: str) -> list[str]:
    """The single-layer coders of one repository, as `resid_post/layer_12_width_16k_l0_medium`.

    Args:
        size: 270m, 1b, 4b, 12b or 27b.
        tuning: pt or it.
    """
    return [name for name in _grid(_size(size), size) if not _is_hole(size, tuning, name)]


def joint_names(size: str) -> list[str]:
    """The crosscoders of one repository, and its cross-layer transcoders where it has some (270m and 1b)."""
    layers = "_".join(map(str, _size(size).subset))
    found = [
        f"crosscoder/layer_{layers}_width_{width}_l0_{l0}"
        for width in ("65k", "262k", "524k", "1m")
        for l0 in ("medium", "big")
    ]
    if size in ("270m", "1b"):
        found += [
            f"clt/width_{width}_l0_{l0}{affine}"
            for width in ("262k", "524k")
            for l0 in ("medium", "big")
            for affine in AFFINE
        ]
    return found


def repositories() -> dict[str, list[str]]:
    """Every repository with its single-layer coders: 8,784 names."""
    return {f"google/gemma-scope-2-{size}-{tuning}": names(size, tuning) for size in SIZES for tuning in TUNINGS}


def _size(size: str) -> Size:
    if size not in SIZES:
        raise NotFound(f"Gemma Scope 2 has no model of size {size!r}; {nearest(size, SIZES)}.")
    return SIZES[size]


def _grid(model: Size, size: str) -> Iterator[str]:
    for site in ("resid_post", "attn_out", "mlp_out"):
        yield from _names(f"{site}_all", range(model.layers), ("16k", "262k"), ("small", "big"))
        wide = ("1m",) if site == "resid_post" or (site, size) == ("mlp_out", "1b") else ()
        yield from _names(site, model.subset, ("16k", "65k", "262k", *wide), CLASSES)
    yield from _names("resid_post", model.subset, ("262k",), ("medium",), ("_seed_1",))
    yield from _names("transcoder_all", range(model.layers), ("16k", "262k"), ("small", "big"), AFFINE)
    yield from _names("transcoder", model.subset, ("16k", "65k", "262k"), CLASSES, AFFINE)


def _names(
    folder: str,
    layers: range | tuple[int, ...],
    widths: tuple[str, ...],
    classes: tuple[str, ...],
    ends: tuple[str, ...] = ("",),
) -> Iterator[str]:
    for layer in layers:
        for width in widths:
            for l0 in classes:
                for end in ends:
                    yield f"{folder}/layer_{layer}_width_{width}_l0_{l0}{end}"


NOT_LISTED = {
    ("27b", "pt"): ("attn_out", "attn_out_all", "mlp_out", "mlp_out_all", "transcoder"),
    ("270m", "pt"): ("transcoder",),
}
"""Folders of a repository of which the public registry lists nothing, `STILL_LISTED` apart."""

STILL_LISTED = ("transcoder/layer_15_width_262k_l0_big_affine", "transcoder/layer_9_width_16k_l0_small_affine")
MISSING_27B = {
    f"transcoder_all/layer_{layer}_width_16k_l0_{l0}"
    for layer, l0 in ((4, "big"), (43, "big"), (4, "small"), (5, "small"), (43, "small"))
}


def _is_hole(size: str, tuning: str, name: str) -> bool:
    folder = name.split("/")[0]
    if folder in NOT_LISTED.get((size, tuning), ()) and name not in STILL_LISTED:
        return True
    return size == "27b" and name in MISSING_27B
