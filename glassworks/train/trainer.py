"""The trainer: many coders that train from one stream, in one process. Specs go in, a scope comes out.

Every batch is drawn once, scaled once for each site, and given to every run. One that fails is set aside with its
reason and the others go on. The trainer does not know when to stop, nor what is saved.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from glassworks.coders import Affine, Scope, Shelf, entry_of, replacement_of
from glassworks.errors import BadInput, GlassworksError, nearest
from glassworks.experiments import Meter
from glassworks.harvest import Stream
from glassworks.train.output import Batch
from glassworks.train.run import TrainingRun
from glassworks.train.spec import Spec

SAMPLE = 4
"""Batches that final thresholds are taken from."""


@runtime_checkable
class AuxiliaryLoss(Protocol):
    """A loss of all coders together, with a state of its own (such as what it draws)."""

    def __call__(self, trainer: "Trainer", step: int) -> dict[str, float]:
        """Add its gradient to that of the coders, and return its numbers."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that its future depends on."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        ...


@final
class Trainer:
    """Coders that train together.

    Args:
        specs: one for each coder.
        stream: gives their batches; sites are scaled by its statistics.
        device: where they compute.

    Attributes:
        runs: one for each spec.
        scalings: how each site is scaled, for centred coders and for others.
        auxiliary: the last numbers of the auxiliary loss.

    Raises:
        BadInput: two specs of one name, or a site that the stream does not have.
    """

    def __init__(self, specs: Sequence[Spec], stream: Stream, device: str = "cpu") -> None:
        self.specs, self.stream, self.device = tuple(specs), stream, device
        names, layouts = [spec.name for spec in specs], [spec.layout for spec in specs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise BadInput(f"The coders of a trainer need different names; {', '.join(twice) or 'there are none'}.")
        self.sites = list(dict.fromkeys(site.name for layout in layouts for site in (*layout.reads, *layout.writes)))
        missing, widths = sorted(set(self.sites) - set(stream.widths)), stream.widths
        if missing:
            raise BadInput(f"There are no activations at {', '.join(missing)}; {nearest(missing[0], widths, most=20)}.")
        for layout in layouts:
            if len({widths[site.name] for site in layout.reads}) > 1:
                raise BadInput(f"The sites that a {layout.kind} reads together have different widths.")
        self.scalings = {way: self._scalings(way) for way in sorted({spec.centred for spec in specs})}
        (sample,) = self._samples(1)
        self.runs = [TrainingRun(spec, sample[spec.centred], device) for spec in specs]
        self.auxiliary: dict[str, float] = {}

    @property
    def steps(self) -> int:
        """How many batches the longest run takes."""
        return max(spec.steps for spec in self.specs)

    @property
    def failed(self) -> dict[str, str]:
        """Why coders were set aside, by name."""
        return {run.spec.name: run.failed for run in self.runs if run.failed}

    def step(self, batch: Batch, step: int, auxiliary: AuxiliaryLoss | None = None) -> None:
        """Train every coder on one batch.

        Args:
            batch: raw rows by site.
            step: steps done, from 0.
            auxiliary: a loss of all coders together.

        Raises:
            GlassworksError: the batch holds values that are not finite, or no coder is left.
        """
        scaled, active = self._scaled(batch), [run for run in self.runs if run.active(step)]
        for run in self.runs:
            run.output = None
        for run in active:
            run.backward(scaled[run.spec.centred], step)
            if auxiliary is None and not run.failed:  # at once, so that one gradient lives at a time
                run.update(step)
        if auxiliary is not None:
            self.auxiliary = auxiliary(self, step)
            for run in active:
                run.update(step)
        if len(self.failed) == len(self.runs):
            raise GlassworksError(" ".join(dict.fromkeys(self.failed.values())))

    def numbers(self) -> dict[str, dict[str, float]]:
        """How each coder that trained on the last batch did on it, by name."""
        return {run.spec.name: run.numbers() for run in self.runs if run.output and not run.failed}

    def scope(self, name: str, model: str, untrained: Sequence[str] = ("bos",)) -> Scope:
        """What was trained, as a scope of coders of raw activations.

        Args:
            name: of the scope.
            model: name of the model whose activations they are.
            untrained: positions that were not trained on; see `Scope`.
        """
        samples = self._samples(SAMPLE)
        entries, built = [], {}
        for run in self.runs:
            if run.failed:
                continue
            spec = run.spec
            run.calibrate([sample[spec.centred] for sample in samples])
            coder = run.export(self.scalings[spec.centred]).cpu()
            coder.rename(spec.name)
            target = {"l0": f"{spec.l0:g}", "target": float(spec.l0)} if spec.l0 is not None else {}
            entries.append(replace(entry_of(spec.name, coder), tags=spec.tags, **target))
            built[spec.name] = coder
        metrics = {"failed": self.failed} if self.failed else {}
        return Scope(
            name, model, Shelf(entries, built), replacement_of(entries), untrained=tuple(untrained), metrics=metrics
        )

    def measure(self, scope: Scope, batches: int = 16) -> dict[str, Any]:
        """Measure a scope of this trainer on the next batches of its stream; the stream goes on.

        Args:
            scope: what `scope` returned.
            batches: how many.

        Returns:
            Coder -> the figures of `experiments.Fidelity`, as plain values.
        """
        meters = {
            name: Meter([site.name for site in coder.writes], coder.d_latent) for name, coder in scope.coders.items()
        }
        for _ in range(batches):
            values = self.stream.draw()
            for name, meter in meters.items():
                meter.measure(scope[name], values)
        return {name: meter.result().plain() for name, meter in meters.items()}

    def _scalings(self, centred: bool) -> dict[str, Affine]:
        """How each site is scaled: to variance 1 around its mean, or to mean square length 1 as it is."""
        scalings = {}
        for site in self.sites:
            moments = self.stream.statistics(site)
            size = moments.variance if centred else moments.square
            if not 0 < size < torch.inf:
                raise BadInput(f"The activations at {site} have the size {size}; nothing can be learned from them.")
            centre = moments.mean.float() if centred else torch.zeros(len(moments.mean))
            scalings[site] = Affine(centre.to(self.device), size**-0.5)
        return scalings

    def _samples(self, count: int) -> list[dict[bool, Batch]]:
        """The next batches, scaled; the stream goes on as if nothing had been drawn."""
        state = self.stream.state()
        drawn = [self._scaled(self.stream.draw()) for _ in range(count)]
        self.stream.restore(state)
        return drawn

    def _scaled(self, batch: Batch) -> dict[bool, Batch]:
        """A batch in each of the scalings that the specs use."""
        raw = {site: batch[site].to(self.device) for site in self.sites}
        # A sum shows in one pass that all are finite; only if it overflows must every number be looked at.
        bad = [site for site, rows in raw.items() if not (rows.sum().isfinite() or rows.isfinite().all())]
        if bad:
            raise BadInput(f"The activations at {', '.join(bad)} hold values that are not finite; harvest them again.")
        return {way: {site: its[site](rows) for site, rows in raw.items()} for way, its in self.scalings.items()}
