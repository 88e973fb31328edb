"""The local replacement model of a prompt: what is written, what is read, and the frozen linear map between.

Everything that attribution needs, after one forward pass of the real model; from here on it is linear algebra.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.circuits.engine.freeze import Captured, Weights, fold_attention, freeze_attention, needed
from glassworks.circuits.engine.linear import FrozenModel, Targets, biases, constants
from glassworks.circuits.engine.sources import Sources, collect, feature_targets, outputs, preactivations
from glassworks.circuits.engine.sweep import Block, edges
from glassworks.circuits.nodes import ATTENTION, PARTS
from glassworks.circuits.targets import Outcomes
from glassworks.coders import Coder
from glassworks.errors import BadInput
from glassworks.models import Model, Prompt
from glassworks.sites import Site


@final
@dataclass(frozen=True, eq=False)
class LocalModel:
    """The linear model that replaces the real one on a prompt.

    Attributes:
        frozen: the frozen linear map.
        sources: what is written.
        targets: what is read: the features' pre-activations, then the outcomes.
        values: what the targets are in the real model.
        levels: of each target: it reads features of lower levels only.
        weights: how much each outcome counts.
    """

    frozen: FrozenModel
    sources: Sources
    targets: Targets
    values: Float[Tensor, " t"]
    levels: Int[Tensor, " t"]
    weights: Float[Tensor, " outcome"]

    @property
    def outcomes(self) -> int:
        """How many of the targets, the last ones, are outcomes."""
        return len(self.weights)

    @property
    def bytes(self) -> int:
        """What it takes in memory, roughly: source vectors, targets, patterns and weights."""
        frozen = (tensor for layer in self.frozen.attentions for tensor in (layer.pattern, layer.w_v, layer.w_o))
        vectors = (writes.vectors for writes in self.sources.writes.values())
        constants = self.sources.constants.values()
        return sum(tensor.nbytes for tensor in (*frozen, *vectors, *constants, self.targets.covector))

    def edges(self, targets: Targets | None = None) -> Float[Tensor, "t source"]:
        """Every direct effect, targets by sources (features, errors, embeddings); by default all targets."""
        targets = self.targets if targets is None else targets
        return edges(self.frozen, self.sources.writes, targets, self.sources.columns)

    def biases(self, targets: Targets | None = None) -> Float[Tensor, " t"]:
        """The part of every target that comes from constants, computed forward from these alone."""
        targets = self.targets if targets is None else targets
        return biases(self.frozen, targets, constants(self.frozen, self.sources.constants))

    def block(self, rows: Int[Tensor, " r"]) -> Block:
        """Some targets as a block of the sweep."""
        return Block(self.frozen, self.sources.writes, self.targets[rows], self.sources.columns)

    def size(self, rows: Int[Tensor, " r"]) -> int:
        """How many numbers the covectors of a block hold."""
        return len(rows) * (int(self.targets.position[rows].max()) + 1) * self.targets.covector.shape[1]


def run(model: Model, coders: Sequence[Coder], tokens: Prompt, also: Sequence[Site] = ()) -> Captured:
    """Run the real model once, and keep what freezes it and what the coders read.

    Raises:
        BadInput: the model's values are not finite.
    """
    sites = [site for coder in coders for site in coder.reads]
    sites += [site for coder in coders for site in coder.writes] + [output.stream for output in outputs(model, coders)]
    captured = model.capture(tokens, dict.fromkeys([*needed(model), *sites, *also]))
    if not bool(captured["logits"].isfinite().all()):
        raise BadInput("The model's logits are not finite on this prompt; its weights are damaged.")
    return captured


@torch.no_grad()
def localise(
    model: Model,
    coders: Sequence[Coder],
    captured: Captured,
    masked: Bool[Tensor, " token"],
    outcomes: Outcomes,
    weights: Sequence[Weights] | None = None,
) -> LocalModel:
    """Build the local replacement model.

    Args:
        model: the real model.
        coders: what replaces its MLPs and attention layers.
        captured: its run on the prompt.
        masked: positions without features and errors.
        outcomes: what is to be explained.
        weights: the model's folded attention weights, which several prompts share.
    """
    sources = collect(model, coders, captured, masked)
    folded = folded_weights(model) if weights is None else weights
    attentions = tuple(freeze_attention(model, layer, captured, both) for layer, both in enumerate(folded))
    replaced = frozenset(active.layer for active in sources.active if active.part == ATTENTION)
    features = [feature_targets(model, active, captured) for active in sources.active]
    values = [preactivations(active, captured) for active in sources.active]
    levels = [torch.full((len(active.index),), active.layer * len(PARTS) + active.part) for active in sources.active]
    return LocalModel(
        FrozenModel(attentions, sources.skips, replaced),
        sources,
        Targets.cat([*features, outcomes.targets]),
        torch.cat([*values, outcomes.value]).cpu(),
        torch.cat([*levels, torch.full((len(outcomes.ids),), model.n_layers * len(PARTS))]),
        outcomes.probability.cpu(),
    )


def folded_weights(model: Model) -> list[Weights]:
    """The attention weights of all layers, norms folded in."""
    return [fold_attention(model, layer) for layer in range(model.n_layers)]
