"""Resampling: dead latents begin anew on the rows that are explained worst (Bricken et al. 2023, "Neuron resampling").

The other way to bring latents back is the loss term `AuxK`.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glassworks.train.output import CoderOutput

FAINT = 0.2
"""Length of a new encoder row, as a share of the living ones' mean: it must not take over at once."""


@final
@dataclass(frozen=True)
class Dead:
    """When a latent is dead, and when dead ones are resampled.

    Attributes:
        window: a latent is dead after so many tokens without it.
        every: steps between two resamplings; 0 for none.
        until: no resampling after this step.
    """

    window: int = 1_000_000
    every: int = 0
    until: int = 0

    def due(self, step: int) -> bool:
        """Whether dead latents are resampled after this step."""
        return self.every > 0 and 0 < step <= self.until and step % self.every == 0


@torch.no_grad()
def resample(output: CoderOutput, optimiser: torch.optim.Optimizer, seed: int) -> None:
    """Give dead latents the directions of rows drawn with probability ~ squared loss, and fresh moments.

    Args:
        output: on the batch that the rows are drawn from.
        optimiser: of the coder's parameters.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    for piece in output.parts:
        part, alive = piece.part, ~piece.part.dead
        dead = part.dead.nonzero()[:, 0]
        if not len(dead):
            continue
        left = (output.target - output.written)[:, piece.columns]
        chance = left.square().sum(1).square().cpu() + 1e-30
        rows = torch.multinomial(chance, len(dead), replacement=True, generator=generator).to(left.device)
        lengths: Tensor = part.w_enc[alive].norm(dim=1).mean() if bool(alive.any()) else part.w_enc.new_ones(())
        centred = piece.read[rows] - piece.read.mean(0)
        part.w_enc[dead] = normalize(centred) * lengths * FAINT
        if "log_threshold" in part.learned:  # on at its own row, twice as strongly as it must be
            part.learned["log_threshold"][dead] = (centred.norm(dim=1) * lengths * FAINT / 2).clamp_min(1e-6).log()
        part.w_dec[dead] = normalize(left[rows]) * (part.norms[alive].mean() if bool(alive.any()) else 1.0)
        part.b_enc[dead] = 0.0
        part.silent[dead] = 0
        for parameter in (part.w_enc, part.b_enc, part.w_dec, *part.learned.values()):
            moments: dict[str, Any] = optimiser.state.get(parameter, {})
            for name in ("exp_avg", "exp_avg_sq"):
                if name in moments:
                    moments[name][dead] = 0.0
