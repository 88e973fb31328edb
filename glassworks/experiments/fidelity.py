"""Fidelity: how well a coder reconstructs, and how sparsely, streamed in float64.

This module sees activations only, never a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from glassworks import stats
from glassworks.coders import Coder, Latents
from glassworks.errors import BadInput
from glassworks.experiments.rebuild import Rebuilder, Rows, rows_at

Groups = Mapping[str, Int[Tensor, " token"]]
"""Name of a grouping, `document`, -> the number of each token's group."""
Figure = Callable[[Tensor], Tensor]
"""A figure from sums of columns on the last axis, whatever the axes before it are."""
Strata = dict[str, dict[str, dict[str, int | float]]]
"""Grouping -> group -> figure."""

DENSE = 0.1
"""A latent that is active on a larger share of the tokens is dense."""
DECADES = (-6, 0)
"""The frequency histogram has four bars a decade from 1e-6 to 1; rarer latents are in the first."""
FINE = 100
"""Bars a decade in which the median is found: to 2 %, interpolated within."""
LOW, HIGH = -16, 8
"""Decades of the unexplained share of a token's variance."""
FIGURES: dict[str, Figure] = {
    "fvu": lambda sums: (sums[..., 3::2] / sums[..., 4::2]).mean(-1),
    "cosine": lambda sums: sums[..., 2] / sums[..., 0],
    "l0": lambda sums: sums[..., 1] / sums[..., 0],
}
"""What follows from the sums of a meter's columns: tokens, active latents, cosine, then error and distance by site."""


@final
@dataclass(frozen=True)
class Fidelity:
    """What was measured of one coder.

    Attributes:
        fvu: fraction of variance unexplained: squared error over squared distance from the mean, summed over
            tokens and components; the mean over its write sites; 0 is perfect, 1 is what the mean reaches.
        median: the same of the median token: its squared error over its own squared distance from the mean.
        cosine: of true and reconstructed activations, mean over tokens and write sites.
        l0: active latents a token, on average; of a joint coder all of them.
        dead: share of the latents that were active on no token.
        dense: share of the latents that were active on more than a tenth of the tokens.
        tokens: how many tokens it was measured on.
        sites: fvu at each write site.
        histogram: how many latents are active how often, four bars a decade of frequency from 1e-6 to 1.
        intervals: 95 % bootstrap intervals over documents of fvu, l0 and cosine; empty where documents were not given.
        strata: grouping -> group -> tokens, fvu, l0, cosine; the distances are from the mean of all tokens.
    """

    fvu: float
    median: float
    cosine: float
    l0: float
    dead: float
    dense: float
    tokens: int
    sites: dict[str, float] = field(default_factory=dict)
    histogram: list[int] = field(default_factory=list)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    strata: Strata = field(default_factory=dict)

    @property
    def explained(self) -> float:
        """Explained variance, `1 - fvu`."""
        return 1.0 - self.fvu

    def plain(self) -> dict[str, Any]:
        """JSON values; what is empty, and `sites` of one, is left out."""
        facts = asdict(self)
        if len(self.sites) == 1:
            facts.pop("sites")
        return {name: value for name, value in facts.items() if value != {}}


@final
class Meter:
    """Measures reconstructions batch by batch, in sums whose size does not grow with the text.

    Args:
        writes: names of the sites that are reconstructed.
        d_latent: how many latents there are.
        centres: a mean for each site, from which distances are summed; by default that of the first batch. The fvu
            corrects for what it is off, so that it does not depend on it; medians, strata and intervals do, slightly.
    """

    def __init__(self, writes: Sequence[str], d_latent: int, centres: Mapping[str, Tensor] | None = None) -> None:
        self.writes = tuple(writes)
        self.centres = {name: mean.double().cpu() for name, mean in (centres or {}).items()}
        self.drift: dict[str, Tensor] = {}
        self.total = torch.zeros(3 + 2 * len(self.writes), dtype=torch.float64)
        self.sums: dict[str, Tensor] = {}
        self.fired = torch.zeros(d_latent, dtype=torch.long)
        self.shares = torch.zeros(FINE * (HIGH - LOW), dtype=torch.long)

    @torch.no_grad()
    def add(self, truth: Rows, rebuilt: Rows, latents: Latents, groups: Groups | None = None) -> None:
        """Take in tokens.

        Args:
            truth: the true activations at the write sites.
            rebuilt: what the coder gave instead.
            latents: its active latents on these tokens.
            groups: the tokens' documents and other groupings, as `strata` gives them.
        """
        count = latents.tokens
        wrong = {name: len(numbers) for name, numbers in (groups or {}).items() if len(numbers) != count}
        if wrong:
            raise BadInput(f"Groups need one number for each of the {count} tokens; these have another count: {wrong}.")
        if not count:
            return
        pairs = [self._site(name, truth[name].double(), rebuilt[name].double()) for name in self.writes]
        cosine = torch.stack([pair[0] for pair in pairs]).mean(0)
        head = [torch.ones(count, dtype=torch.float64), latents.counts.double().cpu(), cosine.cpu()]
        rows = torch.stack([*head, *(column.cpu() for pair in pairs for column in pair[1:])], dim=1)
        self.total += rows.sum(0)
        for name, numbers in (groups or {}).items():
            sums, numbers = self.sums.get(name, rows.new_zeros(0, rows.shape[1])), numbers.cpu()
            more = max(0, int(numbers.max()) + 1 - len(sums))
            self.sums[name] = torch.cat([sums, sums.new_zeros(more, rows.shape[1])]).index_add(0, numbers, rows)
        self.fired += torch.bincount(latents.indices.cpu(), minlength=len(self.fired))
        self.shares += _bars((rows[:, 3::2] / rows[:, 4::2]).mean(1))

    @torch.no_grad()
    def measure(self, coder: Coder, values: Rows, groups: Groups | None = None) -> None:
        """Take in tokens, rebuilt by a coder from the activations at its read sites."""
        rebuild = Rebuilder(coder)
        rebuilt = {site.name: rebuild(values, site) for site in coder.writes}
        self.add(values, rebuilt, rebuild.latents(values), groups)

    def mean(self, name: str) -> Float[Tensor, " d"]:
        """The mean of the true activations so far at a write site."""
        return self.centres[name] + self.drift[name] / float(self.total[0])

    def result(self) -> Fidelity:
        """What was measured so far; BadInput where nothing was added, or nothing varies."""
        tokens = int(self.total[0])
        total = self._centred(self.total)
        if not tokens or not bool((total[4::2] > 0).all()):
            raise BadInput(f"The activations of {tokens} tokens do not vary; give more text.")
        fvu, cosine, l0 = (float(figure(total)) for figure in FIGURES.values())
        frequency = self.fired.double() / tokens
        return Fidelity(
            fvu,
            _median(self.shares),
            cosine,
            l0,
            float((frequency == 0).double().mean()),
            float((frequency > DENSE).double().mean()),
            tokens,
            dict(zip(self.writes, (total[3::2] / total[4::2]).tolist(), strict=True)),
            _histogram(frequency),
            self._intervals(),
            {
                grouping: {
                    name(number): {"tokens": int(sums[0])} | {key: float(get(sums)) for key, get in FIGURES.items()}
                    for number, sums in enumerate(self.sums.get(grouping, ()))
                    if sums[0] > 0
                }
                for grouping, name in STRATA.items()
                if grouping in self.sums
            },
        )

    def _intervals(self) -> dict[str, tuple[float, float]]:
        """Of each figure, by document; nothing where there are fewer than two."""
        sums = self.sums.get("document", self.total.new_zeros(0, len(self.total)))
        sums = sums[sums[:, 0] > 0]
        if len(sums) < 2:
            return {}
        drawn = stats.resampled(sums)
        return {name: stats.interval(figure(drawn), len(sums)).ends for name, figure in FIGURES.items()}

    def _site(self, name: str, y: Tensor, guess: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cosine, squared error and squared distance from the centre of each token."""
        if guess.shape != y.shape:
            raise BadInput(f"At {name} the rows have shape {tuple(y.shape)}, what is rebuilt {tuple(guess.shape)}.")
        off = y - self.centres.setdefault(name, y.mean(0).cpu()).to(y.device)
        self.drift[name] = self.drift.get(name, 0.0) + off.sum(0).cpu()
        return functional.cosine_similarity(y, guess, dim=1), (y - guess).square().sum(1), off.square().sum(1)

    def _centred(self, total: Tensor) -> Tensor:
        """The sums, with distances from the mean in place of those from the centre (Steiner's theorem)."""
        total = total.clone()
        for number, name in enumerate(self.writes):
            if name in self.drift:
                total[4 + 2 * number] -= float(self.drift[name].square().sum() / total[0])
        return total


def strata(
    tokens: Int[Tensor, " token"],
    documents: Int[Tensor, " token"],
    positions: Int[Tensor, " token"],
    counts: Int[Tensor, " vocabulary"] | None = None,
) -> Groups:
    """Group tokens by document, by position (buckets double), and by frequency (buckets of a factor of ten).

    A mean over all tokens hides a coder that fails on rare ones.

    Args:
        tokens: their ids.
        documents: which document each comes from.
        positions: its place there.
        counts: how often each id occurs, by default among these tokens.
    """
    tokens = tokens.long()
    counts = torch.bincount(tokens) if counts is None else counts
    share = counts[tokens].double() / counts.sum()
    return {
        "document": documents.long(),
        "position": positions.double().log2().floor().clamp(min=-1).long() + 1,
        "frequency": (-share.log10()).floor().long(),
    }


def _positions(bucket: int) -> str:
    first, last = (1 << bucket) >> 1, max(0, (1 << bucket) - 1)
    return f"{first}" if first == last else f"{first}-{last}"


def _frequencies(bucket: int) -> str:
    return f"{10.0 ** (1 - bucket):g} to {10.0 ** (2 - bucket):g} %"


STRATA: dict[str, Callable[[int], str]] = {"position": _positions, "frequency": _frequencies}
"""Grouping -> the name of each of its groups: positions `4-7`, and `0.1 to 1 %` of all tokens."""


@torch.no_grad()
def fidelity(coder: Coder, values: Rows, groups: Groups | None = None, batch: int = 8192) -> Fidelity:
    """Measure a coder of any kind on activations.

    Args:
        coder: a sparse autoencoder, transcoder, cross-layer transcoder or crosscoder.
        values: activations at its read and write sites, as `Recording.values`.
        groups: the tokens' documents and other groupings, as `strata` gives them.
        batch: tokens at a time.

    Raises:
        BadInput: activations at one of its sites are missing, or do not vary.
    """
    truth = rows_at(values, coder.writes)
    centres = {site.name: rows.mean(0, dtype=torch.float64) for site, rows in zip(coder.writes, truth, strict=True)}
    meter = Meter([site.name for site in coder.writes], coder.d_latent, centres)
    for start in range(0, len(truth[0]), batch):
        span = slice(start, start + batch)
        part = {name: rows[span] for name, rows in values.items()}
        meter.measure(coder, part, {name: numbers[span] for name, numbers in (groups or {}).items()})
    return meter.result()


def _bars(shares: Float[Tensor, " token"]) -> Tensor:
    """Count tokens by the logarithm of a share."""
    place = (shares.log10().nan_to_num(nan=LOW, neginf=LOW, posinf=HIGH) - LOW) * FINE
    return torch.bincount(place.long().clamp(0, FINE * (HIGH - LOW) - 1), minlength=FINE * (HIGH - LOW))


def _median(bars: Tensor) -> float:
    below, half = bars.cumsum(0), float(bars.sum()) / 2
    bar = int((below >= half).nonzero()[0])
    if bar == 0:
        return 0.0
    inside = (half - float(below[bar - 1])) / float(bars[bar])
    return 10.0 ** (LOW + (bar + inside) / FINE)


def _histogram(frequency: Float[Tensor, " latent"]) -> list[int]:
    first, last = DECADES
    bars = 4 * (last - first)
    place = ((frequency[frequency > 0].log10() - first) * 4).long().clamp(0, bars - 1)
    return torch.bincount(place, minlength=bars).tolist()
