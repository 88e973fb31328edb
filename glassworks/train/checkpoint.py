"""Checkpoints: the whole state of a training on disk, so that it continues bit for bit.

Saved are the learners (weights, silent counts), their optimisers, who was set aside, the scaling of the sites, the
stream, and the step. Each checkpoint is a folder of its own, `step-N`, and older ones go only when it is complete:
a process that is killed at any moment leaves a whole one behind.
"""

import shutil
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from glassworks import artefacts
from glassworks.coders import Affine
from glassworks.errors import BadArtefact, GlassworksError
from glassworks.train.fleet import Fleet

KIND = "training"
State = dict[str, Tensor]


@runtime_checkable
class Resumable(Protocol):
    """What has a state: a stream, or a companion of the fleet."""

    def state(self) -> State:
        """All that its future depends on."""
        ...

    def restore(self, state: State) -> None:
        """Go on from a state."""
        ...


def save(fleet: Fleet, also: dict[str, Resumable], step: int, folder: Path) -> None:
    """Write the state, and then remove older ones.

    Args:
        fleet: what trains.
        also: what else has a state, by name.
        step: steps done.
        folder: of all checkpoints.

    Raises:
        GlassworksError: the disk is full, or cannot be written; the last checkpoint stays.
    """
    fields = {"table": describe(fleet), "step": step, "failed": fleet.failed}
    tensors = {f"member.{number}": _of(trainee) for number, trainee in enumerate(fleet.trainees)}
    tensors |= {f"also.{name}": each.state() for name, each in also.items()}
    tensors["scalings"] = {
        f"{way}.{site}.{name}": value
        for way, sites in fleet.scalings.items()
        for site, each in sites.items()
        for name, value in (("centre", each.centre), ("scale", torch.tensor(each.scale, dtype=torch.float64)))
    }
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


def restore(fleet: Fleet, also: dict[str, Resumable], folder: Path) -> int:
    """Take up the last saved state, in place.

    Args:
        fleet: of the same table, not started.
        also: as in `save`.
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
    if stored.fields["table"] != describe(fleet):
        raise BadArtefact(f"The checkpoint {path} belongs to another training; remove it, or choose another folder.")
    for number, trainee in enumerate(fleet.trainees):
        _put(trainee, stored.tensors(f"member.{number}"))
        trainee.failed = stored.fields["failed"].get(trainee.member.name, "")
    for name, each in also.items():
        each.restore(stored.tensors(f"also.{name}"))
    tensors = stored.tensors("scalings")
    for way, sites in fleet.scalings.items():
        for site in sites:
            scale = float(tensors[f"{way}.{site}.scale"])
            sites[site] = Affine(tensors[f"{way}.{site}.centre"].to(fleet.device), scale)
    return stored.fields["step"]


def last(folder: Path) -> Path | None:
    """The newest checkpoint of a folder, None where there is none."""
    found = [path for path in folder.glob("step-*") if artefacts.is_artefact(path)]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def describe(fleet: Fleet) -> list[str]:
    """The fleet's table and its stream's shape, so that a state is only ever taken up by the same training."""
    return [*(repr(each) for each in fleet.members), f"batch {fleet.stream.batch}"]


def _of(trainee: Any) -> State:
    slots = trainee.optimiser.state_dict()["state"]
    moments = {f"optimiser.{n}.{name}": value for n, each in slots.items() for name, value in each.items()}
    return {f"learner.{name}": value for name, value in trainee.learner.state_dict().items()} | moments


def _put(trainee: Any, tensors: State) -> None:
    trainee.learner.load_state_dict(_below(tensors, "learner."))
    whole = trainee.optimiser.state_dict()
    numbers = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("optimiser.")})
    whole["state"] = {number: _below(tensors, f"optimiser.{number}.") for number in numbers}
    trainee.optimiser.load_state_dict(whole)


def _below(tensors: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
