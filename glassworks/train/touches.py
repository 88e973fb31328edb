"""Touches: which pre-activations of a batch matter to a loss, as values given to `encode`.

Of all tokens x latents only those entries are kept. A touch says which by looking at some rows of
pre-activations at a time; it must not know what a loss does with them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.train.kernels import Kernels

SAMPLED = 17
"""One in so many entries is sampled; prime, so that all latents take part."""
MARGIN = 0.9
"""The next batch's cut is looked for from this share of the last one's."""


@final
class Chosen(NamedTuple):
    """Entries of some tokens.

    Attributes:
        counts: how many each token has.
        indices: the latent of each, ascending within a token.
        values: its pre-activation, in the precision of the product.
    """

    counts: Int[Tensor, " token"]
    indices: Int[Tensor, " entry"]
    values: Float[Tensor, " entry"]

    @classmethod
    def in_turn(cls, pieces: "Sequence[Chosen]") -> "Chosen":
        """Those of tokens that follow each other."""
        return cls(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))


class Touch(ABC):
    """Says which entries of the pre-activations are kept."""

    @abstractmethod
    def take(self, pre: Float[Tensor, "token latent"], kernels: Kernels) -> Chosen | None:
        """What is kept of some of the batch's tokens, or None where the dense form should come.

        Args:
            pre: their pre-activations.
            kernels: what chooses.
        """

    def settle(self, chosen: Chosen) -> Chosen | None:
        """What is kept of all that was taken of a batch, or None where too little was and it must be seen again.

        Args:
            chosen: what was taken, all tokens in turn.
        """
        return chosen


@final
@dataclass(frozen=True, eq=False)
class Everything(Touch):
    """Every entry: the dense form."""

    def take(self, pre: Float[Tensor, "token latent"], kernels: Kernels) -> Chosen | None:
        """Nothing in particular."""
        return None


@final
@dataclass(frozen=True, eq=False)
class Largest(Touch):
    """The k largest of each token, also where they are negative (TopK; AuxK among dead latents).

    Attributes:
        k: how many a token; fewer where fewer latents take part.
        among: which latents take part; all by default.
    """

    k: int
    among: Bool[Tensor, " latent"] | None = None

    def take(self, pre: Float[Tensor, "token latent"], kernels: Kernels) -> Chosen | None:
        """Each token's own."""
        if self.among is None:
            indices = kernels.largest(pre, min(self.k, pre.shape[1]))
        else:
            able = self.among.nonzero().squeeze(1)
            indices = able[kernels.largest(pre[:, able], min(self.k, len(able)))]
        counts = torch.full((len(pre),), indices.shape[1], device=pre.device)
        return Chosen(counts, indices.flatten(), pre.gather(1, indices).flatten())


@final
@dataclass(eq=False)
class Warm:
    """Where the last batch's cut lay: the next one's is not far, so only what lies near it must be ranked.

    The choice is exact whatever stands here, so it need not be saved with a training.

    Attributes:
        cut: candidates lie above it; None where it must be found from a sample.
        slack: which share of a sample's cut is one that is surely low enough.
    """

    cut: float | None = None
    slack: float = MARGIN


@final
@dataclass(frozen=True, eq=False)
class LargestOfBatch(Touch):
    """The k * tokens largest of the batch that are positive, ties kept (BatchTopK).

    Attributes:
        k: how many a token on average.
        warm: remembers the cut between batches.
    """

    k: int | float
    warm: Warm = field(default_factory=Warm)

    def take(self, pre: Float[Tensor, "token latent"], kernels: Kernels) -> Chosen | None:
        """Candidates: those above the last batch's cut, with a margin."""
        if self.warm.cut is None:
            sample = pre.flatten()[::SAMPLED].float()
            share = min(self.k / pre.shape[1], 1.0)
            least = sample.topk(max(round(share * len(sample)), 1)).values[-1]
            self.warm.cut = max(0.0, float(least) * self.warm.slack)
        return _above(pre, torch.full_like(pre[0], self.warm.cut, dtype=torch.float32), kernels)

    def settle(self, chosen: Chosen) -> Chosen | None:
        """Of the candidates the largest; None where they are too few and a lower cut could give more."""
        wanted = max(round(self.k * len(chosen.counts)), 1)
        surplus = len(chosen.values) - wanted
        if surplus < 0 and (self.warm.cut or 0.0) > 0.0:
            self.warm.cut, self.warm.slack = None, self.warm.slack / 2 if self.warm.slack > 0.1 else 0.0
            return None
        values = chosen.values.float()
        least = values.kthvalue(max(surplus, 0) + 1).values if len(values) else values.new_zeros(())
        self.warm.cut, self.warm.slack = (float(least) * MARGIN if surplus >= 0 else None), MARGIN
        kept = values >= least
        tokens = torch.repeat_interleave(chosen.counts, output_size=len(kept))[kept]
        counts = torch.bincount(tokens, minlength=len(chosen.counts))
        return Chosen(counts, chosen.indices[kept], chosen.values[kept])


@final
@dataclass(frozen=True, eq=False)
class Above(Touch):
    """Those above a floor of their latent: for JumpReLU its threshold less half the kernel's width.

    Where more than `most` of the entries lie above, the dense form is the faster one and comes instead; there
    entries below the floor are present too, so a loss must apply its own threshold in both.

    Attributes:
        floor: of each latent; infinite for one that takes no part.
        most: the largest density for which the sparse form pays.
    """

    floor: Float[Tensor, " latent"]
    most: float = 0.12

    def take(self, pre: Float[Tensor, "token latent"], kernels: Kernels) -> Chosen | None:
        """Each token's own."""
        chosen = _above(pre, self.floor.detach(), kernels)
        return chosen if len(chosen.indices) <= self.most * pre.numel() else None


def _above(pre: Tensor, floor: Tensor, kernels: Kernels) -> Chosen:
    counts, indices = kernels.above(pre, floor)
    tokens = torch.repeat_interleave(counts, output_size=len(indices))
    return Chosen(counts, indices, pre[tokens, indices])
