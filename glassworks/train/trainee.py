"""Trainees: one member of a fleet while it trains: its learner, its optimiser, and what became of it.

This module must not know the other members, nor where batches come from.
"""

from dataclasses import dataclass
from math import isfinite
from typing import final

import torch

from glassworks.coders import Latents
from glassworks.evals import Meter
from glassworks.train.attempt import Attempt, Batch
from glassworks.train.learner import Learner
from glassworks.train.objective import Objective
from glassworks.train.revive import resample


@final
@dataclass(frozen=True)
class Member:
    """One row of a fleet's table.

    Attributes:
        name: of the coder in its scope, unique there.
        objective: what it is and what it minimises.
        seed: of its initial directions.
        l0: latents a token that it aims at, for the scope's listing.
        tags: what else sets it apart there.
    """

    name: str
    objective: Objective
    seed: int = 0
    l0: int | float | None = None
    tags: tuple[str, ...] = ()


@final
class Trainee:
    """A member while it trains.

    Args:
        member: its row of the table.
        sample: scaled rows.
        device: where it computes.

    Attributes:
        failed: why it was set aside; empty while it trains.
        attempt: what it made of the last batch.
        losses: the last weighted losses by term.
    """

    def __init__(self, member: Member, sample: Batch, device: str) -> None:
        self.member, self.objective = member, member.objective
        self.learner = Learner(member.objective, sample, member.seed).to(device)
        adam = self.objective.adam
        self.optimiser = torch.optim.Adam(self.learner.parameters(), lr=0.0, betas=adam.betas, eps=adam.eps, fused=True)
        self.failed, self.losses = "", dict[str, float]()
        self.attempt: Attempt | None = None

    def busy(self, step: int) -> bool:
        """Whether it learns at this step."""
        return not self.failed and step < self.objective.steps

    def backward(self, batch: Batch, step: int) -> None:
        """Find the gradient of its loss on a batch; set it aside where the loss is not finite."""
        self.attempt = attempt = self.learner(batch, step)
        losses = {term.name: weight(step) * term(attempt) for weight, term in self.objective.terms}
        total = torch.stack([*losses.values()])
        self.losses = dict(zip(losses, total.detach().tolist(), strict=True))
        bad = [name for name, value in self.losses.items() if not isfinite(value)]
        if bad:
            self.failed = f"The loss {', '.join(bad)} is not finite at step {step}; lower the learning rate."
        else:
            total.sum().backward()
            self.learner.remember(attempt)

    def update(self, step: int) -> None:
        """Descend along the gradient."""
        objective, attempt = self.objective, self.attempt
        assert attempt is not None
        self.optimiser.param_groups[0]["lr"] = objective.adam.rate(step, objective.steps)
        if objective.unit:
            self.learner.flatten_gradient()
        if objective.adam.clip:
            torch.nn.utils.clip_grad_norm_(self.learner.parameters(), objective.adam.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if objective.dead.due(step):
            resample(attempt, self.optimiser, self.member.seed * 1_000_003 + step)
        if objective.unit:
            self.learner.normalise()

    @torch.no_grad()
    def numbers(self) -> dict[str, float]:
        """How it did on the last batch: losses, latents on a token, variance unexplained, share of dead latents."""
        attempt = self.attempt
        assert attempt is not None
        sizes = [self.learner.widths[site] for site in self.learner.writes]
        names = [site.name for site in self.learner.writes]
        latents = Latents.side_by_side([share.codes.latents(share.values) for share in attempt.shares])
        truth, rebuilt = (
            dict(zip(names, each.detach().cpu().split(sizes, -1), strict=True))
            for each in (attempt.target, attempt.written)
        )
        meter = Meter(names, latents.d_latent)
        meter.add(truth, rebuilt, latents)
        found = meter.result()
        dead = torch.cat([part.dead for part in self.learner.parts]).float().mean()
        losses = {f"loss.{name}": value for name, value in self.losses.items()}
        return {"l0": found.l0, "fvu": found.fvu, "dead": float(dead), **losses}
