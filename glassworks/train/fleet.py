"""Fleets: many coders that train from one stream, in one process. A table goes in, a scope comes out.

Every batch is drawn once, scaled once for each site, and shown to every member. One that fails is set aside with
its reason and the others go on. This module must not know when to stop, nor what is saved.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from glassworks.coders import Affine, Scope, Shelf, entry_of, replacement_of
from glassworks.errors import BadInput, GlassworksError, nearest
from glassworks.evals import Meter
from glassworks.harvest import Stream
from glassworks.train.attempt import Batch
from glassworks.train.export import export
from glassworks.train.trainee import Member, Trainee

SAMPLE = 4
"""Batches that final thresholds are taken from."""

Companion = Callable[["Fleet", int], dict[str, float]]
"""Adds a loss of all members together: it takes the fleet and the step, and leaves its gradient with theirs."""


@final
class Fleet:
    """Coders that train together.

    Args:
        members: the table.
        stream: gives their batches; sites are scaled by its statistics.
        device: where they compute.

    Raises:
        BadInput: two members of one name, or a site that the stream does not have.
    """

    def __init__(self, members: Sequence[Member], stream: Stream, device: str = "cpu") -> None:
        self.members, self.stream, self.device = tuple(members), stream, device
        self.sites = _sites(members, stream.widths)
        ways = sorted({each.objective.centred for each in members})
        self.scalings = {centred: _scalings(stream, self.sites, centred, device) for centred in ways}
        (sample,) = self._samples(1)
        self.trainees = [Trainee(each, sample[each.objective.centred], device) for each in members]
        self.together: dict[str, float] = {}

    @property
    def steps(self) -> int:
        """How many batches the longest training takes."""
        return max(each.objective.steps for each in self.members)

    @property
    def failed(self) -> dict[str, str]:
        """Why members were set aside, by name."""
        return {each.member.name: each.failed for each in self.trainees if each.failed}

    def take(self, other: "Fleet") -> None:
        """Begin with the weights of another fleet of the same table, whose training is over; optimisers begin anew."""
        for mine, its in zip(self.trainees, other.trainees, strict=True):
            mine.learner.load_state_dict(its.learner.state_dict())
            mine.failed = its.failed

    def step(self, batch: Batch, step: int, companion: Companion | None = None) -> None:
        """Train every member on one batch.

        Args:
            batch: raw rows by site.
            step: steps done, from 0.
            companion: a loss of all members together.

        Raises:
            GlassworksError: the batch holds values that are not finite, or no member is left.
        """
        scaled, busy = self._scaled(batch), [each for each in self.trainees if each.busy(step)]
        for trainee in self.trainees:
            trainee.attempt = None
        for trainee in busy:
            trainee.backward(scaled[trainee.objective.centred], step)
            if companion is None and not trainee.failed:  # at once, so that one gradient lives at a time
                trainee.update(step)
        if companion is not None:
            self.together = companion(self, step)
            for trainee in busy:
                trainee.update(step)
        if len(self.failed) == len(self.trainees):
            raise GlassworksError(" ".join(dict.fromkeys(self.failed.values())))

    def numbers(self) -> dict[str, dict[str, float]]:
        """How each member that learned from the last batch did on it, by name."""
        return {each.member.name: each.numbers() for each in self.trainees if each.attempt and not each.failed}

    def scope(self, name: str, model: str, untrained: Sequence[str] = ("bos",)) -> Scope:
        """What was trained, as a scope of coders of raw activations.

        Args:
            name: of the scope.
            model: name of the model whose activations they are.
            untrained: positions that were not trained on; see `Scope`.
        """
        samples = self._samples(SAMPLE)
        entries, built = [], {}
        for trainee in self.trainees:
            if trainee.failed:
                continue
            member, centred = trainee.member, trainee.objective.centred
            trainee.learner.calibrate([each[centred] for each in samples])
            coder = export(trainee.learner, self.scalings[centred]).cpu()
            coder.rename(member.name)
            target = {"l0": f"{member.l0:g}", "target": float(member.l0)} if member.l0 is not None else {}
            entries.append(replace(entry_of(member.name, coder), tags=member.tags, **target))
            built[member.name] = coder
        metrics = {"failed": self.failed} if self.failed else {}
        return Scope(
            name, model, Shelf(entries, built), replacement_of(entries), untrained=tuple(untrained), metrics=metrics
        )

    def measure(self, scope: Scope, batches: int = 16) -> dict[str, Any]:
        """Measure a scope of this fleet on the next batches of its stream; the stream goes on.

        Args:
            scope: what `scope` gave.
            batches: how many.

        Returns:
            Coder -> what `evals.Fidelity` says, as plain values.
        """
        meters = {
            name: Meter([site.name for site in coder.writes], coder.d_latent) for name, coder in scope.coders.items()
        }
        for _ in range(batches):
            values = self.stream.draw()
            for name, meter in meters.items():
                meter.measure(scope[name], values)
        return {name: meter.result().plain() for name, meter in meters.items()}

    def _samples(self, count: int) -> list[dict[bool, Batch]]:
        """The next batches, scaled; the stream goes on as if nothing had been drawn."""
        state = self.stream.state()
        drawn = [self._scaled(self.stream.draw()) for _ in range(count)]
        self.stream.restore(state)
        return drawn

    def _scaled(self, batch: Batch) -> dict[bool, Batch]:
        """A batch in each of the scalings that members use."""
        raw = {site: batch[site].to(self.device) for site in self.sites}
        bad = [site for site, values in raw.items() if not _finite(values)]
        if bad:
            raise BadInput(f"The activations at {', '.join(bad)} hold values that are not finite; harvest them again.")
        return {way: {site: each[site](values) for site, values in raw.items()} for way, each in self.scalings.items()}


def _finite(values: Tensor) -> bool:
    """Whether all are; a sum says so in one pass, and only if it overflows each must be looked at."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _sites(members: Sequence[Member], widths: Mapping[str, int]) -> list[str]:
    """The sites that members need."""
    names = [each.name for each in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise BadInput(f"The members of a fleet need different names; {', '.join(twice) or 'there are none'}.")
    layouts = [each.objective.layout for each in members]
    needed = [site.name for layout in layouts for site in (*layout.reads, *layout.writes)]
    missing = sorted(set(needed) - set(widths))
    if missing:
        raise BadInput(f"There are no activations at {', '.join(missing)}; {nearest(missing[0], widths, most=20)}.")
    for layout in layouts:
        if len({widths[site.name] for site in layout.reads}) > 1:
            raise BadInput(f"The sites that a {layout.kind} reads together have different widths.")
    return list(dict.fromkeys(needed))


def _scalings(stream: Stream, sites: Sequence[str], centred: bool, device: str) -> dict[str, Affine]:
    """How each site is scaled: to variance 1 around its mean, or to mean square length 1 as it is."""
    found = {}
    for site in sites:
        moments = stream.statistics(site)
        size = moments.variance if centred else moments.square
        if not 0 < size < torch.inf:
            raise BadInput(f"The activations at {site} have the size {size}; nothing can be learned from them.")
        centre = moments.mean.float() if centred else torch.zeros(len(moments.mean))
        found[site] = Affine(centre.to(device), size**-0.5)
    return found
