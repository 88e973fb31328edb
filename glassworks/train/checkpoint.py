"""Checkpoints: the whole state of a training on disk, so that it continues bit for bit.

Saved are the runs (weights, silent counts), their optimisers, which were set aside, the scaling of the sites, the
stream, and the step. Each checkpoint is a folder of its own, `step-N`, and older ones go only when it is complete:
a process that is killed at any moment leaves a whole one behind.
"""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from glassworks import artefacts
from glassworks.coders import Affine
from glassworks.errors import BadArtefact, GlassworksError
from glassworks.train.trainer import AuxiliaryLoss, Trainer

KIND = "training"


def save(trainer: Trainer, auxiliary: AuxiliaryLoss | None, step: int, folder: Path) -> None:
    """Write the state, and then remove older ones.

    Args:
        trainer: what trains.
        auxiliary: the loss of all coders together.
        step: steps done.
        folder: of all checkpoints.

    Raises:
        GlassworksError: the disk is full, or cannot be written; the last checkpoint stays.
    """
    tensors = {"stream": trainer.stream.state()}
    if auxiliary is not None:
        tensors["auxiliary"] = auxiliary.state()
    for number, run in enumerate(trainer.runs):
        slots = run.optimiser.state_dict()["state"]
        moments = {f"optimiser.{n}.{name}": value for n, slot in slots.items() for name, value in slot.items()}
        tensors[f"run.{number}"] = {f"weights.{name}": value for name, value in run.state_dict().items()} | moments
    tensors["scalings"] = {
        f"{way}.{site}.{name}": value
        for way, sites in trainer.scalings.items()
        for site, scaling in sites.items()
        for name, value in (("centre", scaling.centre), ("scale", torch.tensor(scaling.scale, dtype=torch.float64)))
    }
    fields = {"specs": describe(trainer), "step": step, "failed": trainer.failed}
    try:
        artefacts.write(folder / f"step-{step}", KIND, fields, tensors)
    except OSError as error:
        raise GlassworksError(
            f"The checkpoint of step {step} cannot be written to {folder} ({error.strerror}); the last one stays: "
            f"make room, and resume."
        ) from error
    for old in folder.iterdir():
        if old.name != f"step-{step}" and old.name.lstrip(".").startswith("step-"):
            shutil.rmtree(old)


def restore(trainer: Trainer, auxiliary: AuxiliaryLoss | None, folder: Path) -> int:
    """Restore the last saved state, in place.

    Args:
        trainer: of the same specs, not started.
        auxiliary: as for `save`.
        folder: of all checkpoints.

    Returns:
        Steps done; 0 where there is no checkpoint.

    Raises:
        BadArtefact: it belongs to another training, or is damaged.
    """
    path = last(folder)
    if path is None:
        return 0
    stored = artefacts.read(path, KIND)
    stored.verify()
    if stored.fields.get("specs") != describe(trainer):
        raise BadArtefact(f"The checkpoint {path} belongs to another training; remove it, or choose another folder.")
    for number, run in enumerate(trainer.runs):
        tensors = stored.tensors(f"run.{number}")
        run.load_state_dict(_below(tensors, "weights."))
        optimiser = run.optimiser.state_dict()
        slots = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("optimiser.")})
        optimiser["state"] = {slot: _below(tensors, f"optimiser.{slot}.") for slot in slots}
        run.optimiser.load_state_dict(optimiser)
        run.failed = stored.fields["failed"].get(run.spec.name, "")
    trainer.stream.restore(stored.tensors("stream"))
    if auxiliary is not None:
        auxiliary.restore(stored.tensors("auxiliary"))
    tensors = stored.tensors("scalings")
    for way, sites in trainer.scalings.items():
        for site in sites:
            scale = float(tensors[f"{way}.{site}.scale"])
            sites[site] = Affine(tensors[f"{way}.{site}.centre"].to(trainer.device), scale)
    return stored.fields["step"]


def last(folder: Path) -> Path | None:
    """The newest checkpoint of a folder, None where there is none."""
    paths = [path for path in folder.glob("step-*") if artefacts.is_artefact(path)]
    return max(paths, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def describe(trainer: Trainer) -> list[str]:
    """The specs and the stream's shape, so that a state is only ever restored by the same training."""
    return [*(repr(spec) for spec in trainer.specs), f"batch {trainer.stream.batch}"]


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
