"""Learners: coders while they are trained, on scaled activations, of any layout and with any gate.

A learner knows rows of activations by site; it must not know a model, a loop, or how many others there are.
"""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glassworks.sites import Site
from glassworks.train.attempt import Attempt, Batch, Part, Share, side_by_side
from glassworks.train.codes import encode
from glassworks.train.objective import Objective
from glassworks.train.touches import LargestOfBatch

Sites = tuple[Site, ...]


@final
class Learner(nn.Module):
    """A coder in training.

    Args:
        objective: what it is and what it minimises.
        sample: scaled rows, from which widths and, where asked for, biases are taken.
        seed: of its initial directions.
    """

    def __init__(self, objective: Objective, sample: Batch, seed: int) -> None:
        super().__init__()
        self.objective, self.seed = objective, seed
        self.writes = objective.layout.writes
        self.widths = {site: sample[site.name].shape[1] for site in {*self.writes, *objective.layout.reads}}
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for reads, writes in objective.layout.parts:
            parts.append(self._begun(reads, writes, side_by_side([sample[site.name] for site in reads]), generator))
        self._parts = nn.ModuleList(parts)
        self.b_dec = nn.Parameter(torch.zeros(sum(self.widths[site] for site in self.writes)))

    @property
    def parts(self) -> list[Part]:
        """Its parts, in the order of the sites that they read."""
        return list(self._parts)  # pyright: ignore[reportReturnType]

    @property
    def centre(self) -> Tensor | None:
        """What is subtracted from its input: the output's bias, where the objective says so."""
        return self.b_dec if self.objective.start.pre_bias else None

    def forward(self, batch: Batch, step: int) -> Attempt:
        """Read and write some rows.

        Args:
            batch: scaled rows by site.
            step: steps done, from 0; how many latents are on may depend on it.
        """
        shares = [self.share(part, batch, step) for part in self.parts]
        target = side_by_side([batch[site.name] for site in self.writes])
        return Attempt(target, self._written(shares), shares, self.b_dec, len(self.writes), step)

    def share(self, part: Part, batch: Batch, step: int) -> Share:
        """What one part makes of some rows; arguments as in `forward`."""
        objective = self.objective
        asked = {term: touch for _, term in objective.terms if (touch := term.touch(part)) is not None}
        touches = [objective.gate.touch(part, step), *asked.values()]
        products, read = getattr(torch, objective.products), part.joined(batch)
        codes, *more = encode(read, part.w_enc, part.b_enc, touches, products, self.centre)
        values, on = objective.gate.open(part, codes)
        columns = self.columns(part.writes)
        return Share(part, columns, read, codes, values, on, dict(zip(asked, more, strict=True)))

    def contribution(self, share: Share, write: Site) -> Float[Tensor, "token d"]:
        """What one part adds at one of the sites that it writes, the bias not included."""
        own, whole = self.columns((write,)), share.columns
        here = slice(own.start - whole.start, own.stop - whole.start)
        found = share.codes.decode(share.values, share.part.w_dec[:, here])
        return found if share.part.w_skip is None else found + share.read @ share.part.w_skip[:, here]

    def columns(self, writes: Sites) -> slice:
        """Which columns of what is written belong to some of the sites, which follow each other."""
        first = self.writes.index(writes[0])
        start = sum(self.widths[site] for site in self.writes[:first])
        return slice(start, start + sum(self.widths[site] for site in writes))

    @torch.no_grad()
    def remember(self, attempt: Attempt) -> None:
        """Note which latents were on."""
        for share in attempt.shares:
            share.part.silent += attempt.tokens
            share.part.silent[share.codes.by_latent(share.on.detach()) > 0] = 0

    @torch.no_grad()
    def normalise(self) -> None:
        """Give decoder rows length 1."""
        for part in self.parts:
            part.w_dec /= part.norms.clamp_min(1e-12)[:, None]

    @torch.no_grad()
    def flatten_gradient(self) -> None:
        """Take out the gradient along the decoder rows, which have length 1: it would only change their lengths."""
        for part in self.parts:
            if part.w_dec.grad is not None:
                along = torch.linalg.vecdot(part.w_dec.grad, part.w_dec)
                part.w_dec.grad.addcmul_(along[:, None], part.w_dec, value=-1)

    @torch.no_grad()
    def calibrate(self, batches: Sequence[Batch]) -> None:
        """Set the thresholds that leave as many latents on as the gate is meant to, on rows as they occur in text."""
        k = self.objective.gate.calibrated
        for part in self.parts if k is not None else ():
            cuts = [self._cut(part, batch, k) for batch in batches]
            part.threshold.copy_(torch.stack(cuts).mean())

    def _begun(self, reads: Sites, writes: Sites, x: Tensor, generator: torch.Generator) -> Part:
        objective = self.objective
        d_out = sum(self.widths[site] for site in writes)
        weights = objective.start.weights((objective.width, x.shape[1], d_out), generator)
        cuts, first = objective.start.cuts(weights["w_enc"], x), objective.gate.first
        raised = cuts.clamp_min(first) if objective.start.raised else torch.full_like(cuts, first)
        if objective.start.fires is not None:
            weights["b_enc"] = raised - cuts
        if objective.layout.skip:
            weights["w_skip"] = x.new_zeros(x.shape[1], d_out)
        return Part(reads, writes, weights, objective.gate.parameters(raised), objective.dead.patience)

    def _cut(self, part: Part, batch: Batch, k: float | None) -> Float[Tensor, ""]:
        (codes,) = encode(part.joined(batch), part.w_enc, part.b_enc, [LargestOfBatch(k or 1)], centre=self.centre)
        return codes.pre.min() if codes.pre.numel() else part.threshold.new_zeros(())

    def _written(self, shares: Sequence[Share]) -> Float[Tensor, "prefix token d_out"]:
        widths = self.objective.prefixes or (self.objective.width,)
        pieces: dict[Site, list[Tensor]] = {site: [] for site in self.writes}
        for share in shares:
            part = share.part
            found = share.codes.decode_prefixes(share.values, part.w_dec, widths)
            if part.w_skip is not None:
                found = found + share.read @ part.w_skip
            sizes = [self.widths[site] for site in part.writes]
            for site, piece in zip(part.writes, found.split(sizes, -1), strict=True):
                pieces[site].append(piece)
        return side_by_side([sum(found[1:], found[0]) for found in pieces.values()]) + self.b_dec
