"""Contrasts: the features in which prompts of one kind differ from those of another, ready to be edited.

Everything is counted from the prompts' ends, so that what was found on some prompts fits others of the same form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder, Scope
from glassworks.edits.targets import FeatureRef
from glassworks.errors import BadInput, NotFound
from glassworks.models import Model, Prompt


@final
@dataclass(frozen=True)
class Contrast:
    """Features at positions counted from the end, with their mean activations on prompts of two kinds.

    Attributes:
        refs: which, those that write most of the difference first within a layer and position.
        like: mean activation of each on the prompts of the one kind.
        unlike: on those of the other.
    """

    refs: tuple[FeatureRef, ...]
    like: tuple[float, ...]
    unlike: tuple[float, ...]

    @property
    def change(self) -> list[float]:
        """What has to be added to each to come from the other kind to the one."""
        return [one - other for one, other in zip(self.like, self.unlike, strict=True)]

    @property
    def rising(self) -> list[FeatureRef]:
        """Those that are more active on the prompts of the one kind."""
        return [ref for ref, change in zip(self.refs, self.change, strict=True) if change > 0]


def contrast(
    model: Model,
    scope: Scope,
    like: Sequence[Prompt],
    unlike: Sequence[Prompt],
    *,
    most: int = 8,
    coders: Sequence[str] | None = None,
    last: int | None = None,
) -> Contrast:
    """Find the features whose mean writes differ most between two kinds of prompts.

    Args:
        model: the model.
        scope: its coders.
        like: prompts of the one kind.
        unlike: prompts of the other.
        most: how many features of each coder and position at the most.
        coders: names of the coders; those that replace the MLPs by default.
        last: how many of the last tokens are compared; by default all where every prompt has equally many, else one.

    Raises:
        BadInput: a kind without prompts, no features wanted, or a prompt with fewer tokens.
        NotFound: no coder of that name, or none at all.
    """
    if not like or not unlike or most < 1:
        raise BadInput("A contrast needs a prompt of either kind, and at least one feature of each coder and position.")
    names = list(scope.replacement if coders is None else coders)
    if not names:
        raise NotFound(f"The scope {scope.name} has no coders that replace MLPs; name the coders to compare.")
    kinds = [[model.tokens(prompt) for prompt in kind] for kind in (like, unlike)]
    lengths = {len(row) for kind in kinds for row in kind}
    count = last if last is not None else min(lengths) if len(lengths) == 1 else 1
    if not 1 <= count <= min(lengths):
        raise BadInput(f"The last {count} tokens cannot be compared; the shortest prompt has {min(lengths)}.")
    largest: list[tuple[FeatureRef, float, float]] = []
    for name in names:
        coder = scope[name]
        ones, others = (_mean(model, coder, rows, count) for rows in kinds)
        latents = torch.arange(coder.d_latent, device=ones.device)
        rows = torch.cat([coder.decoder_rows(latents, write).float() for write in coder.writes], 1)
        for token, size in enumerate((ones - others).abs() * rows.norm(dim=1)):
            for index in size.topk(min(most, int((size > 0).sum()))).indices.tolist():
                ref = FeatureRef(name, token - count, index)
                largest.append((ref, float(ones[token, index]), float(others[token, index])))
    if not largest:
        raise BadInput("The prompts of both kinds have the same features at these tokens; there is nothing to change.")
    return Contrast(*zip(*largest, strict=True))


@torch.no_grad()
def _mean(model: Model, coder: Coder, rows: Sequence[Tensor], count: int) -> Float[Tensor, "token latent"]:
    """Mean activations at the last tokens."""
    site = coder.reads[0]
    values = [model.capture(row.tolist(), [site])[site.name] for row in rows]
    return torch.stack([coder.encode(value).dense()[-count:] for value in values]).mean(0).float()
