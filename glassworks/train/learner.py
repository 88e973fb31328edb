"""Learners: coders while they are trained, on scaled activations and with a count of silent latents.

A learner knows rows of activations, no model and no loop.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glassworks.coders import Affine, BatchTopK, JumpReLU, Latents, Transcoder, fold, unit_decoder
from glassworks.sites import Site


@final
@dataclass(frozen=True, eq=False)
class Attempt:
    """What a learner made of some rows, everything in its scaled units; loss terms are functions of it.

    Attributes:
        learner: whose it is.
        x: what it read.
        y: what it should write.
        preactivations: before the choice.
        latents: after it.
        written: what it wrote.
    """

    learner: "Learner"
    x: Float[Tensor, "row d_in"]
    y: Float[Tensor, "row d_out"]
    preactivations: Float[Tensor, "row d_latent"]
    latents: Latents
    written: Float[Tensor, "row d_out"]

    def raw(self) -> Float[Tensor, "row d_out"]:
        """What it wrote, in the site's own units."""
        return self.learner.write.undo(self.written)


@final
class Learner(nn.Module):
    """A transcoder in training with BatchTopK, and what training must remember of it.

    Inputs are scaled to mean square length 1 and targets are centred and scaled to total variance 1, each by
    one number for the site, so that one learning rate fits all layers.

    Args:
        read: the site that it reads.
        write: the site that it writes.
        x: a sample of rows at the read site.
        y: the same rows at the write site.
        d_latent: how many latents.
        generator: draws the initial directions.
    """

    silent: Tensor
    threshold: Tensor

    def __init__(
        self, read: Site, write: Site, x: Tensor, y: Tensor, d_latent: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.read = Affine(torch.zeros(x.shape[1]), float(x.square().sum(1).mean().rsqrt()))
        self.write = Affine(y.mean(0), float(y.var(0, correction=0).sum().rsqrt()))
        directions = torch.randn(d_latent, x.shape[1], generator=generator)
        outputs = directions if y.shape[1] == x.shape[1] else torch.randn(d_latent, y.shape[1], generator=generator)
        weights = {
            "w_enc": nn.functional.normalize(directions),
            "b_enc": torch.zeros(d_latent),
            "w_dec": nn.functional.normalize(outputs) * 0.3,
            "b_dec": torch.zeros(y.shape[1]),
        }
        self.coder = Transcoder(read, write, BatchTopK(1), weights)
        self.register_buffer("silent", torch.zeros(d_latent, dtype=torch.long))
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, x: Float[Tensor, "row d_in"], y: Float[Tensor, "row d_out"], k: int | float) -> Attempt:
        """Try to write `y` from `x`, with k latents a row on average.

        Args:
            x: raw rows at the read site.
            y: raw rows at the write site.
            k: how many latents may be active a row.
        """
        x, y = self.read(x), self.write(y)
        preactivations = self.coder.preactivations(x)
        least = BatchTopK(k).threshold(preactivations)
        latents = Latents.from_dense(preactivations, (preactivations >= least) & (preactivations > 0))
        return Attempt(self, x, y, preactivations, latents, self.coder.decode(latents))

    @torch.no_grad()
    def remember(self, attempt: Attempt) -> None:
        """Note which latents were active."""
        self.silent += len(attempt.x)
        self.silent[attempt.latents.indices] = 0

    def dead(self, patience: int) -> Bool[Tensor, " d_latent"]:
        """Which latents have been silent for more than `patience` rows."""
        return self.silent > patience

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "row d_in"], k: int | float) -> None:
        """Set the threshold so that k latents a row are active on raw rows as they occur in text.

        Training draws rare tokens more often than they occur, so that its own thresholds would not fit.
        """
        self.threshold.copy_(BatchTopK(k).threshold(self.coder.preactivations(self.read(x))).clamp_min(0.0))

    def export(self) -> Transcoder:
        """The coder of raw activations: scaling folded in, JumpReLU, decoder rows of length 1."""
        frozen = Transcoder(
            self.coder.reads[0],
            self.coder.writes[0],
            JumpReLU(self.threshold.detach().expand(self.coder.d_latent).clone()),
            {name: value.clone() for name, value in self.coder.weights().items()},
        )
        return unit_decoder(fold(frozen, self.read, self.write))
