"""Resampling: dead latents begin anew on the rows that are explained worst (Bricken et al. 2023, "Neuron resampling").

The other way to bring latents back is the loss term `AuxK`. This module must not know the loop.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from glassworks.train.attempt import Attempt, Share

FAINT = 0.2
"""Length of a new encoder row, as a share of the living ones' mean: it must not take over at once."""


@final
@dataclass(frozen=True)
class Dead:
    """When a latent is dead, and when dead ones begin anew.

    Attributes:
        patience: tokens without it.
        every: steps between two resamplings; 0 for none.
        until: no resampling after this step.
    """

    patience: int = 1_000_000
    every: int = 0
    until: int = 0

    def due(self, step: int) -> bool:
        """Whether dead latents begin anew after this step."""
        return self.every > 0 and 0 < step <= self.until and step % self.every == 0


@torch.no_grad()
def resample(attempt: Attempt, optimiser: torch.optim.Optimizer, seed: int) -> None:
    """Give dead latents the directions of rows drawn with probability ~ squared loss, and fresh moments.

    Args:
        attempt: on the batch that the rows are drawn from.
        optimiser: of the learner's parameters.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    for share in attempt.shares:
        dead = share.part.dead.nonzero()[:, 0]
        if len(dead):
            left = (attempt.target - attempt.written)[:, share.columns]
            chance = left.square().sum(1).square().cpu() + 1e-30
            rows = torch.multinomial(chance, len(dead), replacement=True, generator=generator).to(left.device)
            _begin_anew(share, dead, left, rows)
            _forget(share, dead, optimiser)


def _begin_anew(share: Share, dead: Int[Tensor, " k"], left: Float[Tensor, "token d"], rows: Int[Tensor, " k"]) -> None:
    part, alive = share.part, ~share.part.dead
    lengths = part.w_enc[alive].norm(dim=1).mean() if bool(alive.any()) else part.w_enc.new_ones(())
    own = share.read[rows] - share.read.mean(0)
    part.w_enc[dead] = normalize(own) * lengths * FAINT
    if "log_threshold" in part.learned:  # on at its own row, twice as strongly as it must be
        part.learned["log_threshold"][dead] = (own.norm(dim=1) * lengths * FAINT / 2).clamp_min(1e-6).log()
    part.w_dec[dead] = normalize(left[rows]) * (part.norms[alive].mean() if bool(alive.any()) else 1.0)
    part.b_enc[dead] = 0.0
    part.silent[dead] = 0


def _forget(share: Share, dead: Int[Tensor, " k"], optimiser: torch.optim.Optimizer) -> None:
    for parameter in (share.part.w_enc, share.part.b_enc, share.part.w_dec, *share.part.learned.values()):
        moments: dict[str, Any] = optimiser.state.get(parameter, {})
        for name in ("exp_avg", "exp_avg_sq"):
            if name in moments:
                moments[name][dead] = 0.0
