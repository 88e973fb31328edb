"""Our own format of coders: what `save_scope` writes and `load_scope` reads; docs/format.md specifies it.

One safetensors file for each set of latents, latents first in every matrix, so that rows can be read in place;
everything else is in the scope's manifest.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

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
from glassworks.errors import BadArtefact, GlassworksError, Unsupported, nearest
from glassworks.sites import Site

FORMULA = "z = x @ w_enc.T + b_enc; a = activation(z); y = a @ w_dec + b_dec (+ x @ w_skip)"
KINDS = {"transcoder": Transcoder, "crosscoder": Crosscoder, "cross_layer": CrossLayer}

MATRICES, VECTORS = ("w_enc", "w_dec"), ("b_", "w_skip")
"""How the names of weights begin that may stay in their file, and that are read; the rest are the activation's."""


def plain(coder: Coder) -> dict[str, Any]:
    """What the manifest says of a coder; JSON values."""
    if isinstance(coder, PerToken):
        return plain(coder.inner) | {"scaling": coder.scaling}
    kind = next((name for name, each in KINDS.items() if isinstance(coder, each)), None)
    if kind is None:
        raise Unsupported(f"The coder {coder.id} is a {type(coder).__name__}; only {', '.join(KINDS)} can be saved.")
    facts = {
        "kind": kind,
        "reads": [site.name for site in coder.reads],
        "writes": [site.name for site in coder.writes],
        "d_latent": coder.d_latent,
        "activation": coder.activation.plain(),
    }
    if isinstance(coder, CrossLayer):
        return facts | {"parts": [plain(part) for part in coder.parts]}
    prefixes = coder.prefixes if isinstance(coder, LinearCoder) else ()
    return facts | ({"prefixes": list(prefixes)} if prefixes else {})


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


def entries(stored: Artefact, files: Files) -> list[Entry]:
    """What a scope's manifest says of its coders; no weights are read.

    Args:
        stored: the scope.
        files: where its files are fetched from.

    Raises:
        BadArtefact: a file is missing, or has not the size that the manifest states.
        KeyError, TypeError, ValueError: the manifest lacks or misstates something.
    """
    return [_entry(stored, files, name, facts) for name, facts in stored.fields["coders"].items()]


def _entry(stored: Artefact, files: Files, name: str, facts: Mapping[str, Any]) -> Entry:
    needed = tuple(f"{file}.safetensors" for file in _files(name, facts))
    for file in needed:
        _check_size(stored, files, file)
    if facts["kind"] not in KINDS:
        raise BadArtefact(
            f"The coder {name} of {stored.path} has the unknown kind {facts['kind']!r}; "
            f"{nearest(str(facts['kind']), KINDS)}."
        )
    reads, writes = (tuple(map(Site.parse, facts[key])) for key in ("reads", "writes"))
    single = len(reads) == len(writes) == 1
    return Entry(
        name=name,
        reads=reads,
        writes=writes,
        kind=kind_of(reads, writes) if single else "crosscoder" if set(reads) >= set(writes) else "clt",
        width=width_word(facts["d_latent"]),
        l0=str(facts.get("l0", "")),
        target=facts.get("target"),
        tags=tuple(facts.get("tags", ())),
        bytes=files.size(needed),
        files=needed,
        provenance=Provenance("glassworks", FORMULA, stored.fields["model"]),
        build=partial(_build, stored, files, name, facts),
    )


def _files(name: str, facts: Mapping[str, Any]) -> list[str]:
    return [f"{name}/{part['reads'][0]}" for part in facts["parts"]] if "parts" in facts else [name]


def _check_size(stored: Artefact, files: Files, file: str) -> None:
    if file not in files:
        raise BadArtefact(f"The artefact {stored.path} lacks its file {file}; write it again.")
    if files.size((file,)) != stored.files[file]["bytes"]:
        raise BadArtefact(f"The file {stored.path / file} has not the size that the manifest states; write it again.")


def _build(stored: Artefact, files: Files, name: str, facts: Mapping[str, Any]) -> Coder:
    try:
        parts = [_linear(files, *each) for each in zip(_files(name, facts), facts.get("parts", [facts]), strict=True)]
        coder = CrossLayer(parts, name) if "parts" in facts else parts[0]  # pyright: ignore[reportArgumentType]
    except (GlassworksError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise BadArtefact(f"The coder {name} of {stored.path} cannot be built: {error}") from error
    if coder.d_latent != facts["d_latent"]:
        raise BadArtefact(f"The coder {name} of {stored.path} is not what its manifest says; write it again.")
    return coder


def _linear(files: Files, file: str, facts: Mapping[str, Any]) -> Coder:
    opened = open_tensors(files.path(f"{file}.safetensors"))
    weights: dict[str, Matrix] = {key: value for key, value in opened.items() if key.startswith(MATRICES)}
    weights |= {key: value.load() for key, value in opened.items() if key.startswith(VECTORS)}
    rest = {key: value.load() for key, value in opened.items() if key not in weights}
    chosen = activation(facts["activation"], rest)
    reads, writes = (list(map(Site.parse, facts[key])) for key in ("reads", "writes"))
    if facts["kind"] == "transcoder":
        coder = Transcoder(reads[0], writes[0], chosen, weights, facts.get("prefixes", ()))
        return PerToken(coder, facts["scaling"]) if "scaling" in facts else coder
    return Crosscoder(reads, writes, chosen, weights, facts.get("prefixes", ()))
