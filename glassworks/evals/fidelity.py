"""Fidelity: how well a coder reconstructs, and how sparsely, streamed in float64.

This module sees activations only, never a model.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder
from glassworks.errors import BadInput


@final
@dataclass(frozen=True)
class Fidelity:
    """What was measured of one coder.

    Attributes:
        fvu: fraction of variance unexplained: squared error over squared distance from the mean, summed over
            tokens and components; 0 is perfect, 1 is what the mean reaches.
        l0: active latents a token, on average.
        dead: share of the latents that were active on no token.
        tokens: how many tokens it was measured on.
    """

    fvu: float
    l0: float
    dead: float
    tokens: int


class Streaming:
    """Sums up batches, so that memory does not grow with the text.

    Args:
        width: of the activations that are reconstructed.
        d_latent: how many latents there are.
    """

    def __init__(self, width: int, d_latent: int) -> None:
        self.tokens, self.active, self.error = 0, 0, 0.0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.spread = 0.0
        self.seen = torch.zeros(d_latent, dtype=torch.bool)

    def add(self, y: Float[Tensor, "token d"], reconstruction: Float[Tensor, "token d"]) -> None:
        """Take in true activations and their reconstruction.

        The spread is merged batch by batch (Chan et al. 1979), so a large offset loses no precision.
        """
        y, count = y.double(), len(y)
        self.error += float((y - reconstruction.double()).square().sum())
        mean, total = y.mean(0), self.tokens + count
        shift = mean - self.mean
        self.spread += float((y - mean).square().sum() + shift.square().sum() * (self.tokens * count / total))
        self.mean += shift * (count / total)
        self.tokens = total

    def add_latents(self, indices: Tensor) -> None:
        """Take in the numbers of the active latents."""
        self.active += len(indices)
        self.seen[indices] = True

    def result(self) -> Fidelity:
        """What was measured so far; BadInput where nothing was added, or nothing varies."""
        if not self.spread > 0:
            raise BadInput(f"The activations of {self.tokens} tokens do not vary; give more text.")
        silent = 1.0 - float(self.seen.double().mean())
        return Fidelity(self.error / self.spread, self.active / self.tokens, silent, self.tokens)


@torch.no_grad()
def fidelity(
    coder: Coder, x: Float[Tensor, "token d_in"], y: Float[Tensor, "token d_out"], batch: int = 8192
) -> Fidelity:
    """Measure a coder on activations.

    Args:
        coder: with one write site.
        x: activations at its read site.
        y: activations at its write site.
        batch: tokens at a time.
    """
    sums = Streaming(y.shape[1], coder.d_latent)
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        latents = coder.encode(part)
        rebuilt, skip = coder.decode(latents), coder.skip()
        sums.add(y[start : start + batch], rebuilt if skip is None else rebuilt + part @ skip)
        sums.add_latents(latents.indices)
    return sums.result()
