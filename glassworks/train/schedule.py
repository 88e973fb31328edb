"""Schedules: plain functions of how much of the training is over. They know nothing else."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Sparsity:
    """How many latents may be active: from `start` times k down to k, in a straight line.

    Attributes:
        k: latents a row in the end.
        start: factor in the beginning; more than 1 lets every latent find its work first.
        until: share of the training after which it stays at k.
    """

    k: int | float
    start: int | float = 1.0
    until: float = 0.4

    def __call__(self, share: int | float) -> float:
        """Give k at a share of the training."""
        return float(self.k) * (1.0 + (self.start - 1.0) * max(0.0, 1.0 - share / self.until))


@final
@dataclass(frozen=True)
class Rate:
    """A learning rate: straight up over `warmup` steps, level, straight down to 0 over the last share.

    Attributes:
        peak: the level.
        warmup: steps.
        decay: share of the training at the end.
    """

    peak: float
    warmup: int = 50
    decay: float = 0.3

    def __call__(self, step: int, steps: int) -> float:
        """The rate at a step (from 0) of so many."""
        return self.peak * min(1.0, (step + 1) / self.warmup) * min(1.0, (1.0 - step / steps) / self.decay)
