"""Training runs: one coder while it trains, of any layout and with any gate, on scaled activations.

A run knows rows of activations by site; it knows no model, no loop, and no other runs.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from glassworks.coders import Affine, Coder, Crosscoder, CrossLayer, Latents, Transcoder, fold, unit_decoder
from glassworks.experiments import Meter
from glassworks.sites import Site
from glassworks.train.output import Batch, CoderOutput, CoderPart, PartOutput, side_by_side
from glassworks.train.selection import LargestOfBatch, encode
from glassworks.train.spec import Spec

FAINT = 0.2
"""Length of a resampled encoder row, as a share of the living ones' mean: it must not take over at once."""


@final
class TrainingRun(nn.Module):
    """A coder in training, with its optimiser.

    Args:
        spec: what it is and what it minimises.
        sample: scaled rows, from which widths and, where the spec says so, biases are taken.
        device: where it computes.

    Attributes:
        parts: in the order of the sites that they read.
        failed: why it was set aside; empty while it trains.
        output: what it made of the last batch.
        losses: the last weighted losses by term.
    """

    parts: Sequence[CoderPart]

    def __init__(self, spec: Spec, sample: Batch, device: str = "cpu") -> None:
        super().__init__()
        self.spec, self.writes = spec, spec.layout.writes
        self.widths = {site: sample[site.name].shape[1] for site in {*self.writes, *spec.layout.reads}}
        generator, start, parts = torch.Generator().manual_seed(spec.seed), spec.start, []
        for reads, writes in spec.layout.parts:
            x = side_by_side([sample[site.name] for site in reads])
            d_out = sum(self.widths[site] for site in writes)
            weights = start.weights((spec.width, x.shape[1], d_out), generator)
            cuts, first = start.cuts(weights["w_enc"], x), spec.gate.first
            raised = cuts.clamp_min(first) if start.raised else torch.full_like(cuts, first)
            if start.fires is not None:
                weights["b_enc"] = raised - cuts
            if spec.layout.skip:
                weights["w_skip"] = x.new_zeros(x.shape[1], d_out)
            parts.append(CoderPart(reads, writes, weights, spec.gate.parameters(raised), spec.dead.window))
        self.parts = nn.ModuleList(parts)  # pyright: ignore[reportAttributeAccessIssue]
        self.b_dec = nn.Parameter(torch.zeros(sum(self.widths[site] for site in self.writes)))
        self.to(device)
        self.optimiser = torch.optim.Adam(
            self.parameters(), lr=0.0, betas=spec.adam.betas, eps=spec.adam.eps, fused=True
        )
        self.failed, self.losses = "", dict[str, float]()
        self.output: CoderOutput | None = None

    @property
    def centre(self) -> Tensor | None:
        """What is subtracted from its input: the output's bias, where the spec says so."""
        return self.b_dec if self.spec.start.pre_bias else None

    def active(self, step: int) -> bool:
        """Whether it trains at this step."""
        return not self.failed and step < self.spec.steps

    def columns(self, writes: tuple[Site, ...], part: CoderPart | None = None) -> slice:
        """Which columns of all that is written, or of what a part writes, belong to sites that follow each other."""
        whole = self.writes if part is None else part.writes
        start = sum(self.widths[site] for site in whole[: whole.index(writes[0])])
        return slice(start, start + sum(self.widths[site] for site in writes))

    def forward(self, batch: Batch, step: int) -> CoderOutput:
        """Read and write some rows.

        Args:
            batch: scaled rows by site.
            step: steps done, from 0; how many latents are on may depend on it.
        """
        outputs = [self.part_output(part, batch, step) for part in self.parts]
        pieces: dict[Site, list[Tensor]] = {site: [] for site in self.writes}
        for output in outputs:
            part, prefixes = output.part, self.spec.prefixes or (self.spec.width,)
            written = output.selected.decode_prefixes(output.values, part.w_dec, prefixes)
            if part.w_skip is not None:
                written = written + output.read @ part.w_skip
            columns = written.split([self.widths[site] for site in part.writes], -1)
            for site, piece in zip(part.writes, columns, strict=True):
                pieces[site].append(piece)
        nested = side_by_side([sum(its[1:], its[0]) for its in pieces.values()]) + self.b_dec
        target = side_by_side([batch[site.name] for site in self.writes])
        return CoderOutput(target, nested, outputs, self.b_dec, len(self.writes), step)

    def part_output(self, part: CoderPart, batch: Batch, step: int) -> PartOutput:
        """What one part makes of some rows; arguments as for `forward`."""
        spec, read = self.spec, part.joined(batch)
        extra = {term: selector for _, term in spec.terms if (selector := term.selector(part)) is not None}
        selectors = [spec.gate.selector(part, step), *extra.values()]
        products = getattr(torch, spec.products)
        selected, *more = encode(read, part.w_enc, part.b_enc, selectors, products, self.centre)
        values, on = spec.gate.open(part, selected)
        columns = self.columns(part.writes)
        return PartOutput(part, columns, read, selected, values, on, dict(zip(extra, more, strict=True)))

    def contribution(self, output: PartOutput, write: Site) -> Float[Tensor, "token d"]:
        """What one part adds at one of the sites that it writes, the bias not included."""
        part, here = output.part, self.columns((write,), output.part)
        decoded = output.selected.decode(output.values, part.w_dec[:, here])
        return decoded if part.w_skip is None else decoded + output.read @ part.w_skip[:, here]

    def backward(self, batch: Batch, step: int) -> None:
        """Compute the gradient of its loss on a batch; set the run aside where the loss is not finite."""
        self.output = output = self(batch, step)
        losses = {term.name: weight(step) * term(output) for weight, term in self.spec.terms}
        total = torch.stack([*losses.values()])
        self.losses = dict(zip(losses, total.detach().tolist(), strict=True))
        bad = [name for name, value in self.losses.items() if not isfinite(value)]
        if bad:
            self.failed = f"The loss {', '.join(bad)} is not finite at step {step}; lower the learning rate."
            return
        total.sum().backward()
        with torch.no_grad():
            for piece in output.parts:
                piece.part.silent += output.tokens
                piece.part.silent[piece.selected.by_latent(piece.on.detach()) > 0] = 0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take a step of the optimiser along the gradient."""
        spec, output = self.spec, self.output
        assert output is not None
        self.optimiser.param_groups[0]["lr"] = spec.adam.rate(step, spec.steps)
        if spec.unit:  # decoder rows have length 1: the gradient along them would only change their lengths
            for part in self.parts:
                if part.w_dec.grad is not None:
                    along = torch.linalg.vecdot(part.w_dec.grad, part.w_dec)
                    part.w_dec.grad.addcmul_(along[:, None], part.w_dec, value=-1)
        if spec.adam.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters(), spec.adam.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if spec.dead.every > 0 and 0 < step <= spec.dead.until and step % spec.dead.every == 0:
            resample(output, self.optimiser, spec.seed * 1_000_003 + step)
        if spec.unit:
            for part in self.parts:
                part.w_dec /= part.norms.clamp_min(1e-12)[:, None]

    @torch.no_grad()
    def numbers(self) -> dict[str, float]:
        """How it did on the last batch: L0, fraction of variance unexplained, share of dead latents, losses."""
        output = self.output
        assert output is not None
        sizes = [self.widths[site] for site in self.writes]
        names = [site.name for site in self.writes]
        latents = Latents.side_by_side([piece.selected.latents(piece.values) for piece in output.parts])
        truth, rebuilt = (
            dict(zip(names, rows.detach().cpu().split(sizes, -1), strict=True))
            for rows in (output.target, output.written)
        )
        meter = Meter(names, latents.d_latent)
        meter.add(truth, rebuilt, latents)
        fidelity = meter.result()
        dead = torch.cat([part.dead for part in self.parts]).float().mean()
        losses = {f"loss.{name}": value for name, value in self.losses.items()}
        return {"l0": fidelity.l0, "fvu": fidelity.fvu, "dead": float(dead), **losses}

    @torch.no_grad()
    def calibrate(self, batches: Sequence[Batch]) -> None:
        """Set the thresholds that leave as many latents on as the gate is meant to, on rows as they occur in text."""
        k = self.spec.gate.calibrated
        for part in self.parts if k is not None else ():
            cuts = []
            for batch in batches:
                selectors = [LargestOfBatch(k or 1)]
                (selected,) = encode(part.joined(batch), part.w_enc, part.b_enc, selectors, centre=self.centre)
                cuts.append(selected.pre.min() if selected.pre.numel() else part.threshold.new_zeros(()))
            part.threshold.copy_(torch.stack(cuts).mean())

    def export(self, scalings: Mapping[str, Affine]) -> Coder:
        """The coder of raw activations that users load, without gradients.

        All that training added is folded away exactly: the scaling of each site, the bias that was subtracted from
        the input, and a choice that depends on a batch. Decoder rows get length 1 where no choice among latents
        depends on it; TopK keeps the lengths it was trained with.

        Args:
            scalings: of each site, by name.
        """
        last = {site: part for part in self.parts for site in part.writes}  # a bias is written once, by one part
        coders: list[Crosscoder | Transcoder] = []
        for part in self.parts:
            w_enc, b_enc, activation = self.spec.gate.encoder(part)
            if self.centre is not None:
                b_enc = b_enc - w_enc @ self.centre
            weights = {"w_enc": w_enc, "b_enc": b_enc.detach()}
            matrices = {"w_dec": part.w_dec, "w_skip": part.w_skip, "b_dec": self.b_dec[self.columns(part.writes)]}
            for name, matrix in matrices.items():
                if matrix is None:
                    continue
                pieces = matrix.detach().split([self.widths[site] for site in part.writes], -1)
                for site, piece in zip(part.writes, pieces, strict=True):
                    if name != "b_dec" or last[site] is part:
                        weights[f"{name}.{site}"] = piece.clone()
            if len(part.reads) == len(self.writes) == len(self.parts) == 1:
                weights = {name.partition(".")[0]: value for name, value in weights.items()}
                coders.append(Transcoder(part.reads[0], part.writes[0], activation, weights, self.spec.prefixes))
            else:
                coders.append(Crosscoder(part.reads, part.writes, activation, weights, self.spec.prefixes))
        kind = self.spec.layout.kind
        whole = CrossLayer(coders, kind) if kind in ("clt", "causal_crosscoder") else coders[0]  # pyright: ignore[reportArgumentType]
        folded = fold(whole, scalings, scalings)  # pyright: ignore[reportArgumentType]
        return (unit_decoder(folded) if folded.activation.span == "latent" else folded).requires_grad_(False)


@torch.no_grad()
def resample(output: CoderOutput, optimiser: torch.optim.Optimizer, seed: int) -> None:
    """Give dead latents the directions of rows that are explained badly, and fresh moments.

    Rows are drawn with probability ~ squared loss (Bricken et al. 2023, "Neuron resampling"). The other way to bring
    latents back is the loss term `AuxK`.

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
