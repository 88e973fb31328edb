"""Checkpoints: the whole state of a training on disk, so that it continues bit for bit.

Saved are the learners (weights, silent counts, thresholds), the optimiser, every random generator of the stream,
and the step. This module must not know what is trained towards what.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from glassworks import artefacts
from glassworks.errors import BadArtefact
from glassworks.train.learner import Learner

KIND = "training"


@final
@dataclass(eq=False)
class State:
    """What changes while a training runs.

    Attributes:
        learners: what is trained.
        optimiser: with one entry of state per parameter.
        generators: what draws the batches.
        step: steps done.
    """

    learners: Sequence[Learner]
    optimiser: torch.optim.Optimizer
    generators: Sequence[torch.Generator]
    step: int = 0


def save(state: State, path: Path, fields: dict[str, Any]) -> None:
    """Write the state, replacing an older one only when all of it is on disk.

    Args:
        state: of the training.
        path: the folder.
        fields: what the training is, as plain JSON; `restore` insists on the same.
    """
    tensors: dict[str, Tensor] = {}
    for number, learner in enumerate(state.learners):
        tensors |= {f"learner.{number}.{name}": value for name, value in learner.state_dict().items()}
    for number, slots in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in slots.items()}
    for number, generator in enumerate(state.generators):
        tensors[f"generator.{number}"] = generator.get_state()
    artefacts.write(path, KIND, {"training": fields, "step": state.step}, {"state": tensors})


def restore(state: State, path: Path, fields: dict[str, Any]) -> bool:
    """Take up a saved state, in place.

    Args:
        state: of the same training, not started.
        path: the folder; where there is none, nothing happens.
        fields: what the training is.

    Returns:
        Whether there was one.

    Raises:
        BadArtefact: it belongs to another training, or is damaged.
    """
    if not artefacts.is_artefact(path):
        return False
    stored = artefacts.read(path, KIND)
    stored.verify()
    if stored.fields["training"] != fields:
        raise BadArtefact(f"The checkpoint {path} belongs to another training; remove it, or choose another folder.")
    tensors = stored.tensors("state")
    for number, learner in enumerate(state.learners):
        learner.load_state_dict(_below(tensors, f"learner.{number}."))
    whole = state.optimiser.state_dict()
    count = sum(len(group["params"]) for group in whole["param_groups"])
    whole["state"] = {number: _below(tensors, f"optimiser.{number}.") for number in range(count)}
    state.optimiser.load_state_dict(whole)
    for number, generator in enumerate(state.generators):
        generator.set_state(tensors[f"generator.{number}"])
    state.step = stored.fields["step"]
    return True


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
