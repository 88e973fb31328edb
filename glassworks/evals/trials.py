"""Trials: how much of a model's prediction coders keep, measured against constants in their place.

The share recovered is (ablated - replaced) / (ablated - true), where ablated means that every replaced site gives
its mean, or zero: 1 is as good as the model, 0 as bad as the constant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import final

import torch
from torch import Tensor

from glassworks.coders import Coder
from glassworks.evals.losses import TRUE, Documents, Losses, Marks
from glassworks.evals.replaced import Replacement, coded, constant, separable
from glassworks.evals.strata import Strata, by_stratum
from glassworks.harvest import Recording
from glassworks.models import Model
from glassworks.sites import Site


@final
@dataclass(frozen=True)
class Recovered:
    """How much of the next-token loss coders recover; losses and divergences in nats a token.

    Attributes:
        true: loss of the model.
        replaced: loss with the coders in place of what they stand for, all at once.
        ablated: loss with the mean in its place.
        zeroed: loss with zeros in its place.
        kl: divergence of the replaced model.
        kl_ablated: divergence with the mean.
        kl_zeroed: divergence with zeros.
        tokens: how many were predicted.
        intervals: 95 % bootstrap intervals over documents of share, kl and replaced.
        strata: grouping -> group of the predicted token -> tokens, true, replaced, kl.
    """

    true: float
    replaced: float
    ablated: float
    zeroed: float
    kl: float
    kl_ablated: float
    kl_zeroed: float
    tokens: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    strata: Strata = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The share of the loss that is recovered against mean ablation: 1 is all of it."""
        return (self.ablated - self.replaced) / (self.ablated - self.true)

    @property
    def share_of_zero(self) -> float:
        """The same against zero ablation."""
        return (self.zeroed - self.replaced) / (self.zeroed - self.true)


@final
class Trial:
    """The replacements that measure coders against constants: one set of coders, at once or site by site.

    Args:
        name: unlike that of any other trial.
        coders: what stands in.
        means: mean activation by the name of each write site.
        groups: the write sites that are replaced at once; several groups are averaged.
    """

    def __init__(
        self,
        name: str,
        coders: Sequence[Coder],
        means: Mapping[str, Tensor],
        groups: Sequence[tuple[Site, ...]] | None = None,
    ) -> None:
        groups = groups or [tuple(site for coder in coders for site in coder.writes)]
        self.replaced = {f"{name}: {_names(sites)}": coded(coders, sites) for sites in groups}
        self.ablated = {f"mean {_names(sites)}": constant({s: means[s.name] for s in sites}) for sites in groups}
        zeros = {name: torch.zeros_like(mean) for name, mean in means.items()}
        self.zeroed = {f"zero {_names(sites)}": constant({s: zeros[s.name] for s in sites}) for sites in groups}

    @classmethod
    def alone(cls, name: str, coder: Coder, means: Mapping[str, Tensor]) -> "Trial":
        """A coder by itself, at all its sites at once or, where that says nothing, at one after the other."""
        return cls(f"{name} alone", [coder], means, separable(coder))

    @property
    def replacements(self) -> dict[str, Replacement]:
        """All that has to be run; constants at the same sites have the same name in every trial."""
        return self.replaced | self.ablated | self.zeroed

    def result(self, losses: Losses, sums: Tensor | None = None) -> Recovered:
        """Read the figures from the losses that were measured.

        Args:
            losses: measured with `replacements`, and perhaps more.
            sums: of some of the tokens only, without intervals and strata; by default all.
        """
        replaced, ablated, zeroed = (list(each) for each in (self.replaced, self.ablated, self.zeroed))
        total = losses.tally.total if sums is None else sums
        return Recovered(
            float(losses.loss(total, [TRUE])),
            float(losses.loss(total, replaced)),
            float(losses.loss(total, ablated)),
            float(losses.loss(total, zeroed)),
            float(losses.kl(total, replaced)),
            float(losses.kl(total, ablated)),
            float(losses.kl(total, zeroed)),
            int(total[0]),
            self._intervals(losses, replaced, ablated) if sums is None else {},
            self._strata(losses, replaced) if sums is None else {},
        )

    def _intervals(self, losses: Losses, replaced: list[str], ablated: list[str]) -> dict[str, tuple[float, float]]:
        def share(sums: Tensor) -> Tensor:
            true, left, worst = (losses.loss(sums, names) for names in ([TRUE], replaced, ablated))
            return (worst - left) / (worst - true)

        kl, loss = partial(losses.kl, names=replaced), partial(losses.loss, names=replaced)
        return losses.tally.intervals({"share": share, "kl": kl, "replaced": loss})

    def _strata(self, losses: Losses, replaced: list[str]) -> Strata:
        figures = {
            "true": partial(losses.loss, names=[TRUE]),
            "replaced": partial(losses.loss, names=replaced),
            "kl": partial(losses.kl, names=replaced),
        }
        return by_stratum(losses.tally, figures)


def recovered(
    model: Model,
    coders: Sequence[Coder],
    documents: Documents,
    recording: Recording,
    answers: Marks | None = None,
    first: int = 0,
) -> Recovered:
    """Measure the loss recovered with all coders in place at once.

    Args:
        model: the model.
        coders: what stands in, one for each site that is written; of any kind.
        documents: token ids each.
        recording: activations at the write sites, for their means.
        answers: which tokens of each document count; by default all that have one before them.
        first: positions before this one keep what the model gives.
    """
    means = {site.name: recording.values[site.name].mean(0) for coder in coders for site in coder.writes}
    trial = Trial("all", coders, means)
    kept = [[position >= first for position in range(len(each))] for each in documents]
    losses = Losses(model, trial.replacements, documents, answers, kept)
    return trial.result(losses, None if answers is None else losses.answers())


def _names(sites: Sequence[Site]) -> str:
    return " ".join(site.name for site in sites)
