"""Scopes: a set of coders for one model, with labels and evidence, saved as an artefact.

A scope's folder holds `manifest.json` (kind "scope": name, model, replacement, untrained, coders, metrics), one
`<coder>.safetensors` each, `labels.json` and, where collected, `evidence.<coder>.safetensors`. This module must
not know how any of it was made.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from glassworks import artefacts
from glassworks.coders.activations import activation
from glassworks.coders.coder import Coder, Transcoder
from glassworks.coders.evidence import Evidence
from glassworks.errors import BadArtefact, BadInput, GlassworksError, NotFound, nearest
from glassworks.hub import resolve
from glassworks.sites import Site


@final
@dataclass(eq=False)
class Scope:
    """The coders of one model.

    Attributes:
        name: what it was loaded as, so that it can be loaded again; else the scope's own name.
        model: the name of the model that it was trained on.
        coders: coder by id (its read site's name).
        replacement: ids of the coders that stand in for the MLPs in a trace, one per layer.
        labels: coder id -> one short label per latent, "" where there is none.
        untrained: positions that the coders were not trained on: "bos" is the first token of a prompt, whose
            MLP outputs stay the model's own and which carries no features.
        metrics: what was measured of it; plain JSON values.
    """

    name: str
    model: str
    coders: dict[str, Coder]
    replacement: list[str]
    labels: dict[str, list[str]] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    evidences: dict[str, Evidence] = field(default_factory=dict, repr=False)
    folder: Path | None = None

    def __getitem__(self, reference: str) -> Coder:
        if reference not in self.coders:
            raise NotFound(f"The scope {self.name} has no coder {reference!r}; {nearest(reference, self.coders)}.")
        return self.coders[reference]

    def __iter__(self) -> Iterator[str]:
        return iter(self.coders)

    def __len__(self) -> int:
        return len(self.coders)

    def label(self, coder: str, index: int) -> str:
        """The label of one latent, "" where it has none."""
        labels = self.labels.get(coder)
        return labels[index] if labels else ""

    def evidence(self, coder: str) -> Evidence | None:
        """What was seen of a coder's latents, read on first use; None where nothing was collected."""
        name = f"evidence.{self[coder].id}"
        if coder not in self.evidences and self.folder is not None and (self.folder / f"{name}.safetensors").is_file():
            stored = artefacts.read(self.folder, "scope")
            self.evidences[coder] = Evidence.from_tensors(stored.tensors(name))
        return self.evidences.get(coder)

    def replacement_coders(self, layers: int) -> dict[int, Coder]:
        """The coders that stand in for the MLPs, by the layer that they write.

        Args:
            layers: how many layers the model has.

        Raises:
            NotFound: a layer has none.
        """
        found = {site.layer: self[name] for name in self.replacement for site in self[name].writes}
        missing = [str(layer) for layer in range(layers) if layer not in found]
        if missing:
            raise NotFound(
                f"The scope {self.name} has no coder that replaces the MLP of layer {', '.join(missing)}; "
                f"it has {', '.join(self.replacement) or 'none at all'}."
            )
        return {layer: found[layer] for layer in range(layers)}

    def to(self, device: torch.device | str) -> "Scope":
        """Move all coders, in place."""
        for coder in self.coders.values():
            coder.to(device)
        return self


def save_scope(scope: Scope, path: Path | str, dtype: torch.dtype | None = None) -> artefacts.Artefact:
    """Write a scope as an artefact.

    Args:
        scope: all of it, evidence included.
        path: the folder; an older scope there is replaced.
        dtype: store weights in this type (thresholds stay as they are), by default as they are.

    Raises:
        BadInput: labels that do not fit their coder, or a folder that holds something else.
    """
    for name, labels in scope.labels.items():
        if len(labels) != scope[name].d_latent:
            raise BadInput(f"The coder {name} has {scope[name].d_latent} latents but {len(labels)} labels.")
    tensors = {name: _coder_tensors(coder, dtype) for name, coder in scope.coders.items()}
    for name in scope.coders:
        evidence = scope.evidence(name)
        if evidence is not None:
            tensors[f"evidence.{name}"] = evidence.narrowed()
    fields = {
        "name": scope.name,
        "model": scope.model,
        "replacement": scope.replacement,
        "untrained": list(scope.untrained),
        "coders": {name: _coder_fields(coder) for name, coder in scope.coders.items()},
        "metrics": scope.metrics,
    }
    return artefacts.write(path, "scope", fields, tensors, {"labels": scope.labels}, [scope.model])


def load_scope(reference: Path | str) -> Scope:
    """Load a scope: a folder, an embedded name, or a repository.

    Raises:
        NotFound: there is no such scope.
        BadArtefact: the folder is damaged, or is something else.
    """
    stored = artefacts.read(resolve(reference, "scope"), "scope")
    fields = stored.fields
    try:
        coders = {name: _read_coder(stored, name, plain) for name, plain in fields["coders"].items()}
        return Scope(
            name=str(reference),
            model=fields["model"],
            coders=coders,
            replacement=fields["replacement"],
            labels=stored.table("labels") if (stored.path / "labels.json").is_file() else {},
            untrained=tuple(fields["untrained"]),
            metrics=fields["metrics"],
            folder=stored.path,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BadArtefact(
            f"The manifest of the scope {stored.path} lacks or misstates {error}; write it again."
        ) from error


def _coder_tensors(coder: Coder, dtype: torch.dtype | None) -> dict[str, Tensor]:
    assert isinstance(coder, Transcoder)
    weights = {name: value if dtype is None else value.to(dtype) for name, value in coder.weights().items()}
    return weights | coder.activation_tensors()


def _coder_fields(coder: Coder) -> dict[str, Any]:
    return {
        "kind": "transcoder",
        "reads": [site.name for site in coder.reads],
        "writes": [site.name for site in coder.writes],
        "d_latent": coder.d_latent,
        "activation": coder.activation.plain(),
    }


def _read_coder(stored: artefacts.Artefact, name: str, plain: dict[str, Any]) -> Coder:
    tensors = stored.tensors(name)
    bad = [key for key, value in tensors.items() if not bool(value.isfinite().all())]
    if bad:
        raise BadArtefact(f"The coder {name} of {stored.path} has values that are not finite in {', '.join(bad)}.")
    weights = {key: tensors.pop(key) for key in [*tensors] if key.startswith(("w_", "b_"))}
    try:
        read, write = Site.parse(plain["reads"][0]), Site.parse(plain["writes"][0])
        coder = Transcoder(read, write, activation(plain["activation"], tensors), weights)
    except (GlassworksError, TypeError) as error:
        raise BadArtefact(f"The coder {name} of {stored.path} cannot be built: {error}") from error
    if (coder.id, coder.d_latent) != (name, plain["d_latent"]):
        raise BadArtefact(f"The coder {name} of {stored.path} is not what its manifest says; write it again.")
    return coder.requires_grad_(False).eval()
