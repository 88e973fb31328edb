"""Our own format of coders: what `save_scope` writes and `load_scope` reads; docs/format.md specifies it.

One safetensors file for each set of latents, latents first in every matrix, so that rows can be read in place;
everything else is in the scope's manifest.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from glassworks.artefacts import Artefact
from glassworks.coders.activations import activation
from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.entries import Entry, Provenance, kind_of, width_word
from glassworks.coders.files import Files
from glassworks.coders.linear import LinearCoder
from glassworks.coders.pertoken import PerToken
from glassworks.coders.transcoder import Transcoder
from glassworks.coders.weights import Matrix, open_tensors
from glassworks.errors import BadArtefact, GlassworksError, Unsupported
from glassworks.sites import Site

FORMULA = "z = x @ w_enc.T + b_enc; a = activation(z); y = a @ w_dec + b_dec (+ x @ w_skip)"
KINDS = {"transcoder": Transcoder, "crosscoder": Crosscoder, "cross_layer": CrossLayer}

MATRICES, VECTORS = ("w_enc", "w_dec"), ("b_", "w_skip")
"""How the names of weights begin that may stay in their file, and that are read; the rest are the activation's."""


class CoderFields(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the manifest holds of a coder, or of a part of one."""

    kind: Literal["transcoder", "crosscoder", "cross_layer"]
    reads: tuple[Site, ...]
    writes: tuple[Site, ...]
    d_latent: int
    activation: dict[str, Any]
    parts: "tuple[CoderFields, ...]" = ()
    prefixes: tuple[int, ...] = ()
    scaling: str | None = None
    l0: str | int | float = ""
    target: float | None = None
    tags: tuple[str, ...] = ()


class ScopeFields(msgspec.Struct, frozen=True):
    """What the manifest holds of a scope."""

    model: str
    coders: dict[str, CoderFields]
    replacement: list[str]
    untrained: tuple[str, ...]
    metrics: dict[str, Any]
    name: str = ""


def describe(coder: Coder, entry: Entry | None = None) -> CoderFields:
    """What the manifest says of a coder, and of its entry in the scope."""
    inner = coder.inner if isinstance(coder, PerToken) else coder
    kind = next((name for name, each in KINDS.items() if isinstance(inner, each)), None)
    if kind is None:
        raise Unsupported(f"The coder {coder.id} is a {type(coder).__name__}; only {', '.join(KINDS)} can be saved.")
    return CoderFields(
        kind,  # pyright: ignore[reportArgumentType]
        coder.reads,
        coder.writes,
        coder.d_latent,
        coder.activation.plain(),
        parts=tuple(map(describe, coder.parts)) if isinstance(coder, CrossLayer) else (),
        prefixes=tuple(inner.prefixes) if isinstance(inner, LinearCoder) else (),
        scaling=coder.scaling if isinstance(coder, PerToken) else None,
        l0=entry.l0 if entry else "",
        target=entry.target or None if entry else None,
        tags=entry.tags if entry else (),
    )


def tensors(name: str, coder: Coder, dtype: torch.dtype | None = None) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The files of a coder, one at a time: name without ending and its tensors.

    Args:
        name: the coder's name in its scope.
        coder: the coder; what lies in files is read file by file.
        dtype: type for the weights, by default as they are.
    """
    if isinstance(coder, CrossLayer):
        for part in coder.parts:
            yield from tensors(f"{name}/{part.reads[0]}", part, dtype)
        return
    inner = coder.inner if isinstance(coder, PerToken) else coder
    assert isinstance(inner, LinearCoder)
    weights = {key: value if dtype is None else value.to(dtype) for key, value in inner.weights().items()}
    yield name, weights | inner.activation_tensors()


def entries(stored: Artefact, manifest: ScopeFields, files: Files) -> list[Entry]:
    """What a scope's manifest says of its coders; no weights are read.

    Args:
        stored: the scope.
        manifest: its fields.
        files: where its files are fetched from.

    Raises:
        BadArtefact: a file is missing, or has not the size that the manifest states.
    """
    return [_entry(stored, files, name, facts, manifest.model) for name, facts in manifest.coders.items()]


def _entry(stored: Artefact, files: Files, name: str, facts: CoderFields, model: str) -> Entry:
    names = [f"{name}/{part.reads[0]}" for part in facts.parts] or [name]
    needed = tuple(f"{each}.safetensors" for each in names)
    for file in needed:
        if file not in files:
            raise BadArtefact(f"The artefact {stored.path} lacks its file {file}; write it again.")
        if file not in stored.files or files.size((file,)) != stored.files[file]["bytes"]:
            raise BadArtefact(
                f"The file {stored.path / file} has not the size that the manifest states; write it again."
            )

    def build() -> Coder:
        try:
            parts: list[Any] = [
                _linear(files, each, part) for each, part in zip(needed, facts.parts or (facts,), strict=True)
            ]
            coder = CrossLayer(parts, name) if facts.parts else parts[0]
        except (GlassworksError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise BadArtefact(f"The coder {name} of {stored.path} cannot be built: {error}") from error
        if coder.d_latent != facts.d_latent:
            raise BadArtefact(f"The coder {name} of {stored.path} is not what its manifest says; write it again.")
        return coder

    single = len(facts.reads) == len(facts.writes) == 1
    joint = "crosscoder" if set(facts.reads) >= set(facts.writes) else "clt"
    return Entry(
        name=name,
        reads=facts.reads,
        writes=facts.writes,
        kind=kind_of(facts.reads, facts.writes) if single else joint,
        width=width_word(facts.d_latent),
        l0=str(facts.l0),
        target=facts.target,
        tags=facts.tags,
        bytes=files.size(needed),
        files=needed,
        provenance=Provenance("glassworks", FORMULA, model),
        build=build,
    )


def _linear(files: Files, file: str, facts: CoderFields) -> Coder:
    opened = open_tensors(files.path(file))
    weights: dict[str, Matrix] = {key: value for key, value in opened.items() if key.startswith(MATRICES)}
    weights |= {key: value.load() for key, value in opened.items() if key.startswith(VECTORS)}
    rest = {key: value.load() for key, value in opened.items() if key not in weights}
    gate = activation(facts.activation, rest)
    if facts.kind == "transcoder":
        coder = Transcoder(facts.reads[0], facts.writes[0], gate, weights, facts.prefixes)
        return PerToken(coder, facts.scaling) if facts.scaling else coder
    return Crosscoder(facts.reads, facts.writes, gate, weights, facts.prefixes)
