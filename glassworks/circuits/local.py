"""The local replacement model of a prompt: what is written, what is read, and the frozen linear map between.

Everything that attribution needs, after one forward pass of the real model; from here on it is linear algebra.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glassworks.circuits.freeze import Captured, final_place, freeze_attention, needed
from glassworks.circuits.linear import FrozenModel, Targets, biases, constants, edges
from glassworks.circuits.outcomes import Outcomes
from glassworks.circuits.sources import Sources, collect, feature_targets, preactivations
from glassworks.coders import Coder
from glassworks.errors import BadInput
from glassworks.models import Model, Prompt


@final
@dataclass(frozen=True, eq=False)
class LocalModel:
    """The linear model that stands in for the real one on a prompt.

    Attributes:
        frozen: the frozen linear map.
        sources: what is written.
        targets: what is read: the features' pre-activations, then the outcomes.
        values: what the targets are in the real model.
    """

    frozen: FrozenModel
    sources: Sources
    targets: Targets
    values: Float[Tensor, " t"]

    def edges(self) -> Float[Tensor, "t source"]:
        """Every direct effect, targets by sources: features, errors, embeddings."""
        return edges(self.frozen, self.sources.writes, self.targets, self.sources.columns)

    def biases(self) -> Float[Tensor, " t"]:
        """The part of every target that comes from constants, computed forward from these alone."""
        return biases(self.targets, constants(self.frozen, self.sources.constants))


def run(model: Model, coders: Sequence[Coder], tokens: Prompt) -> Captured:
    """Run the real model once, and keep what freezes it and what the coders read.

    Raises:
        BadInput: the model's values are not finite.
    """
    reads = [site for coder in coders for site in coder.reads]
    captured = model.capture(tokens, dict.fromkeys([*needed(model), *reads]))
    if not bool(captured["logits"].isfinite().all()):
        raise BadInput("The model's logits are not finite on this prompt; its weights are damaged.")
    return captured


@torch.no_grad()
def localise(
    model: Model, coders: Sequence[Coder], captured: Captured, masked: Bool[Tensor, " token"], outcomes: Outcomes
) -> LocalModel:
    """Build the local replacement model.

    Args:
        model: the real model.
        coders: what stands in for its MLPs.
        captured: its run on the prompt.
        masked: positions without features and errors.
        outcomes: what is to be explained at the last token.
    """
    sources = collect(model, coders, captured, masked)
    attentions = tuple(freeze_attention(model, layer, captured) for layer in range(model.n_layers))
    last = torch.full_like(outcomes.ids, len(masked) - 1)
    logits = final_place(model, captured).targets(outcomes.rows, last, outcomes.constant)
    features = [feature_targets(model, active, captured) for active in sources.active]
    values = [preactivations(active, captured) for active in sources.active]
    return LocalModel(
        FrozenModel(attentions, sources.skips),
        sources,
        Targets.cat([*features, logits]),
        torch.cat([*values, outcomes.value]),
    )
