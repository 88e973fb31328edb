"""Recipes: named trainings with their numbers, as plain functions.

A recipe puts learners, objectives, streams and plans together; the loop does the rest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from glassworks import smallworld
from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.evals import measure
from glassworks.harvest import Recording, record
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train.learner import Learner
from glassworks.train.loop import Plan, fit
from glassworks.train.objective import Joint, Layerwise, Replaced
from glassworks.train.schedule import Rate, Sparsity
from glassworks.train.streams import Rows, Texts, Together
from glassworks.train.terms import reconstruction, revival

FIRST = 1
"""Position 0 holds the beginning-of-text token, whose activations are one constant: nothing to learn there."""

DOCUMENTS, HELD_OUT = 16_000, 2_000
"""Documents of the small world that its scope is trained and measured on."""


@final
@dataclass(frozen=True)
class Transcoders:
    """The numbers of a set of transcoders, one for each layer.

    Attributes:
        width: latents of each.
        k: active latents a token in the end.
        steps: of training layer by layer.
        joint_steps: after that, of training all layers in the replaced model.
        rows: tokens a step.
        tokens: tokens of text a step in the replaced model.
        flatten: how much more often rare tokens and pairs are drawn than they occur, 0 to 1.
        divergence: weight of the replaced model's divergence.
        seed: of everything that is drawn.
    """

    width: int = 1536
    k: int | float = 8
    steps: int = 1500
    joint_steps: int = 100
    rows: int = 1024
    tokens: int = 1024
    flatten: float = 0.6
    divergence: float = 1.0
    seed: int = 0


def transcoders(
    model: Model,
    documents: Sequence[Sequence[int]],
    recipe: Transcoders,
    folder: Path | None = None,
    show: bool = False,
) -> Scope:
    """Train a transcoder for every MLP of a model, first alone, then all together in the replaced model.

    BatchTopK with k annealed from 4 times its end (Bussmann et al. 2024), AuxK (Gao et al. 2024), tokens drawn
    with flattened frequency. In the second stage the error of each layer on the true model's rows stays in the
    loss, so that the transcoders remain faithful to their own layer, and the divergence of the replaced model is
    added, so that errors which compound over the layers are learned away.

    Args:
        model: frozen.
        documents: token ids each, with the beginning-of-text token.
        recipe: the numbers.
        folder: for checkpoints and metrics; a training that was interrupted goes on exactly.
        show: whether to show progress bars.

    Returns:
        A scope of folded JumpReLU transcoders, without labels or evidence.
    """
    reads, writes = model.sites("mlp_in"), model.sites("mlp_out")
    recording = record(model, documents, [*reads, *writes], FIRST)
    learners = _learners(recording, reads, writes, recipe)
    rows = Rows(recording, recipe.rows, recipe.flatten, recipe.seed + 1)
    terms = {"error": (1.0, reconstruction), "revival": (1 / 8, revival(20 * recipe.rows))}
    alone = Layerwise(learners, terms, Sparsity(recipe.k, 4.0))
    fit(alone, rows, Plan(recipe.steps, Rate(2e-3), name="layers", folder=_below(folder, "layers"), show=show))
    together = Joint(
        [
            Layerwise(learners, terms, Sparsity(recipe.k)),
            Replaced(model, learners, Sparsity(recipe.k), recipe.divergence, FIRST),
        ]
    )
    both = Together([Rows(recording, recipe.rows, recipe.flatten, recipe.seed + 2), Texts(documents, recipe.tokens, 3)])
    plan = Plan(recipe.joint_steps, Rate(1e-3), name="model", folder=_below(folder, "model"), show=show)
    if recipe.joint_steps:
        fit(together, both, plan)
    return _scope(model, learners, recording, recipe)


def smallworld_transcoders(
    model: Model, recipe: Transcoders | None = None, folder: Path | None = None, show: bool = False
) -> Scope:
    """Train and measure the scope of an embedded model, as it is shipped.

    Args:
        model: an embedded model, or one of its family.
        recipe: the numbers; by default those of the shipped scope.
        folder: for checkpoints and metrics.
        show: whether to show progress bars.

    Returns:
        The scope with `metrics` on held-out text; `features.describe` adds labels and evidence.
    """
    recipe = recipe or Transcoders()
    documents, _ = world_text(model, DOCUMENTS, "train", recipe.seed)
    scope = transcoders(model, documents, recipe, folder, show)
    held_out, answers = world_text(model, HELD_OUT, "held_out", recipe.seed + 1)
    scope.metrics = measure(model, scope, held_out, answers) | {"recipe": asdict(recipe)}
    return scope


def world_text(model: Model, count: int, split: str, seed: int) -> tuple[list[list[int]], list[list[bool]]]:
    """Draw documents of the small world as token ids, and which of their tokens are answers.

    Args:
        model: its tokenizer is used.
        count: how many documents.
        split: "train" or "held_out".
        seed: of the stream; the model itself was trained on parts of another one.

    Raises:
        BadInput: the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise BadInput(f"The model {model.name} has no tokenizer; the text of the small world cannot be read.")
    documents = list(islice(smallworld.stream(1000 + seed, 0, split), count))
    tokens, answers = [], []
    for document in documents:
        encoding = model.tokenizer(document.text, return_offsets_mapping=True)
        marks = [
            any(stop > first and start < last for first, last in document.spans)
            for start, stop in encoding["offset_mapping"]
        ]
        tokens.append([*encoding["input_ids"], model.tokenizer.eos_token_id])
        answers.append([*marks, False])
    return tokens, answers


def _learners(recording: Recording, reads: list[Site], writes: list[Site], recipe: Transcoders) -> list[Learner]:
    generator = torch.Generator().manual_seed(recipe.seed)
    return [
        Learner(read, write, recording.values[read.name], recording.values[write.name], recipe.width, generator)
        for read, write in zip(reads, writes, strict=True)
    ]


def _scope(model: Model, learners: list[Learner], recording: Recording, recipe: Transcoders) -> Scope:
    sample = torch.randperm(len(recording.tokens), generator=torch.Generator().manual_seed(recipe.seed))[:16384]
    for learner in learners:
        values: Tensor = recording.values[learner.coder.id][sample]
        learner.calibrate(values, recipe.k)
    coders = {learner.coder.id: learner.export() for learner in learners}
    return Scope(f"{model.name}-scope", model.name, dict(coders), list(coders), untrained=("bos",))


def _below(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name
