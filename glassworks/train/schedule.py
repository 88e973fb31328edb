"""Schedules: plain functions of the step. They know nothing else."""

from dataclasses import dataclass
from math import cos, pi
from typing import final


@final
@dataclass(frozen=True)
class Ramp:
    """A number that goes in a straight line from `start` to `end` over the first steps, and stays there.

    Weights of sparsity losses go up; the number of active latents goes down, so that each finds its work first.

    Attributes:
        end: the number that stays.
        start: the number at step 0; the same as `end` where it is not given.
        steps: how long it takes.
    """

    end: int | float
    start: int | float | None = None
    steps: int = 0

    def __call__(self, step: int) -> float:
        """The number at a step, from 0."""
        if self.start is None or step >= self.steps:
            return float(self.end)
        return float(self.start + (self.end - self.start) * step / self.steps)


@final
@dataclass(frozen=True)
class Rate:
    """A learning rate: up over `warmup` steps, level, straight down to 0 over the last `decay` steps.

    Attributes:
        peak: the level.
        warmup: steps on the way up.
        decay: steps on the way down, at the end; 0 stays level.
        floor: the share of the peak that the first step has.
        cosine: whether the way up is half a cosine wave (Gemma Scope) and not a straight line.
    """

    peak: int | float
    warmup: int = 0
    decay: int = 0
    floor: int | float = 0.0
    cosine: bool = False

    def __call__(self, step: int, steps: int) -> float:
        """The rate at a step (from 0) of so many."""
        way = min(1.0, (step + 1) / (self.warmup + 1))
        risen = (1 - cos(pi * way)) / 2 if self.cosine else way
        left = min(1.0, (steps - step) / self.decay) if self.decay else 1.0
        return self.peak * (self.floor + (1 - self.floor) * risen) * left
