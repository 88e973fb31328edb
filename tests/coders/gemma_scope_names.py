"""The names of Gemma Scope 2 as a grammar: which coders the public registry lists, to test that every name is read.

Families, layers, widths, L0 classes and affine variants combine in a regular way; the few coders that were never
uploaded are listed as holes.
"""

from collections.abc import Iterator

from glassworks.coders.formats.gemma_scope import LAYERS

SUBSETS = {
    "270m": (5, 9, 12, 15),
    "1b": (7, 13, 17, 22),
    "4b": (9, 17, 22, 29),
    "12b": (12, 24, 31, 41),
    "27b": (16, 31, 40, 53),
}
"""The four layers of each model with coders of every width."""

TUNINGS = ("pt", "it")
CLASSES = ("small", "medium", "big")
AFFINE = ("", "_affine")


def names(size: str, tuning: str) -> list[str]:
    """The single-layer coders of one repository, as `resid_post/layer_12_width_16k_l0_medium`.

    Args:
        size: 270m, 1b, 4b, 12b or 27b.
        tuning: pt or it.
    """
    return [name for name in _grid(size) if not _is_hole(size, tuning, name)]


def joint_names(size: str) -> list[str]:
    """The crosscoders of one repository, and its cross-layer transcoders where it has some (270m and 1b)."""
    layers = "_".join(map(str, SUBSETS[size]))
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
    return {f"google/gemma-scope-2-{size}-{tuning}": names(size, tuning) for size in LAYERS for tuning in TUNINGS}


def _grid(size: str) -> Iterator[str]:
    for site in ("resid_post", "attn_out", "mlp_out"):
        yield from _names(f"{site}_all", range(LAYERS[size]), ("16k", "262k"), ("small", "big"))
        wide = ("1m",) if site == "resid_post" or (site, size) == ("mlp_out", "1b") else ()
        yield from _names(site, SUBSETS[size], ("16k", "65k", "262k", *wide), CLASSES)
    yield from _names("resid_post", SUBSETS[size], ("262k",), ("medium",), ("_seed_1",))
    yield from _names("transcoder_all", range(LAYERS[size]), ("16k", "262k"), ("small", "big"), AFFINE)
    yield from _names("transcoder", SUBSETS[size], ("16k", "65k", "262k"), CLASSES, AFFINE)


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
