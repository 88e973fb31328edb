"""Directions: a probe or a steering vector of A, carried into B, and where it stands among random ones.

A map that explains most of the variance may still lose the one direction that matters (and any direction correlates
with something), so every figure comes with its percentile among random directions of the same length.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.edits import add_vector
from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.bridge import Bridge, canonical
from glassworks.transfer.statistics import Moments

RANDOM, EFFECTS = 1000, 100
"""Random directions that readings, and effects (a run of the model each), are compared with."""


@final
@dataclass(frozen=True)
class Standing:
    """A figure of a direction among those of random directions of the same length.

    Attributes:
        value: of the direction.
        percentile: how many percent of the random directions have a smaller one.
        median: of the random directions.
        high: their 95th percentile.
        randoms: how many there were.
    """

    value: float
    percentile: float
    median: float
    high: float
    randoms: int

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def among(cls, value: float, others: Float[Tensor, " random"]) -> "Standing":
        """Place a value among others; random directions have no sign, so their sizes are given."""
        below = float((others < value).double().mean()) * 100
        median, high = (float(others.double().quantile(each)) for each in (0.5, 0.95))
        return cls(value, below, median, high, len(others))


@final
@dataclass(frozen=True, eq=False)
class Carried:
    """A direction of A in B.

    Attributes:
        site_a: where it was.
        site_b: where it is.
        write: what is written in B where A writes the direction.
        read: what reads in B what the direction reads in A (up to a constant).
        agreement: correlation of the two readings on held-out text.
    """

    site_a: str
    site_b: str
    write: Float[Tensor, " d_b"]
    read: Float[Tensor, " d_b"]
    agreement: Standing


def carry_direction(
    bridge: Bridge,
    site_a: str | Site,
    direction: Float[Tensor, " d_a"],
    site_b: str | Site | None = None,
    randoms: int = RANDOM,
    seed: int = 0,
) -> Carried:
    """Carry a direction over a bridge.

    It is written as the up map writes it and read as the down map reads it: the two differ, as maps are not inverses.

    Args:
        bridge: from A to B.
        site_a: where the direction lies in A.
        direction: in A.
        site_b: where it is to lie in B; the matched layer by default.
        randoms: how many random directions of B to compare with.
        seed: of those.

    Raises:
        BadInput: the width is wrong, or the direction is zero.
        NotFound: the bridge does not join these sites.
    """
    up, down = bridge.up(site_a, site_b), bridge.down(site_a, site_b)
    if not bool(direction.isfinite().all()) or not float(direction.norm()) > 0:
        raise BadInput("The direction is zero, or holds values that are not finite; give one that points somewhere.")
    direction = direction.detach().float()
    write, read = up.push(direction), down.pull(direction)
    others = torch.cat([read[None], random_like(read, randoms, seed)])
    found = _correlations(bridge, canonical(site_a), up.target[2:], direction, others)
    agreement = Standing.among(float(found[0]), found[1:].abs())
    return Carried(str(site_a), str(site_b or bridge.partner(site_a)), write, read, agreement)


def random_like(vector: Float[Tensor, " d"], count: int, seed: int) -> Float[Tensor, "count d"]:
    """Random directions of a vector's length, all directions alike."""
    drawn = torch.randn(count, len(vector), generator=torch.Generator().manual_seed(seed)).to(vector)
    return drawn * (vector.norm() / drawn.norm(dim=1, keepdim=True))


def discrimination(
    model: Model,
    site: str | Site,
    read: Float[Tensor, " d"],
    prompts: tuple[Sequence[str], Sequence[str]],
    randoms: int = RANDOM,
    seed: int = 0,
) -> Standing:
    """How well a direction tells two kinds of prompts apart at their last token: AUROC.

    Args:
        model: whose states are read.
        site: where.
        read: the direction.
        prompts: those that should read high, and those that should read low.
        randoms: how many random directions to compare with; theirs is taken as at least one half.
        seed: of those.
    """
    high, low = (last_states(model, site, each) for each in prompts)
    others = torch.cat([read[None], random_like(read, randoms, seed)]).to(high)
    found = auroc(high @ others.T, low @ others.T)
    return Standing.among(float(found[0]), torch.maximum(found[1:], 1 - found[1:]))


def auroc(high: Float[Tensor, "m k"], low: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """Chance that one of the high is above one of the low, ties counting half; by column."""
    above = high[:, None] - low[None]
    return ((above > 0).double() + (above == 0).double() / 2).mean((0, 1))


def steering(
    model: Model,
    site: str | Site,
    write: Float[Tensor, " d"],
    prompts: Sequence[str],
    tokens: tuple[int, int],
    randoms: int = EFFECTS,
    seed: int = 0,
) -> Standing:
    """How far adding a direction everywhere moves the next token from one towards another, in logits.

    Args:
        model: what is steered.
        site: where it is added.
        write: what is added.
        prompts: the mean over these.
        tokens: ids: first minus second.
        randoms: how many random directions of the same length to compare with.
        seed: of those.
    """
    before = _leaning(model, prompts, tokens)

    def moved(vector: Tensor) -> float:
        with model.edit(add_vector(site, vector)):
            return float((_leaning(model, prompts, tokens) - before).mean())

    others = torch.tensor([abs(moved(each)) for each in random_like(write, randoms, seed)])
    return Standing.among(moved(write), others)


def last_states(model: Model, site: str | Site, prompts: Sequence[str]) -> Float[Tensor, "prompt d"]:
    """What is at a site at the last token of each prompt."""
    return torch.stack(_last(model, prompts, str(site))).float()


def halves(prompts: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Every other prompt, and the others: one half to find a direction, one to judge it."""
    if len(prompts) < 2:
        raise BadInput(f"There are {len(prompts)} prompts of a kind; give at least 2: half of them judge.")
    return prompts[::2], prompts[1::2]


def contrast(model: Model, site: str | Site, prompts: tuple[Sequence[str], Sequence[str]]) -> Float[Tensor, " d"]:
    """The difference of the mean states at the last tokens of two kinds of prompts."""
    high, low = (last_states(model, site, each).mean(0) for each in prompts)
    return high - low


def _leaning(model: Model, prompts: Sequence[str], tokens: tuple[int, int]) -> Float[Tensor, " prompt"]:
    first, second = tokens
    return torch.stack([each[first] - each[second] for each in _last(model, prompts, "logits")]).float()


def _last(model: Model, prompts: Sequence[str], site: str) -> list[Tensor]:
    values = model.capture(list(prompts), [site])[site]
    return [value[len(model.tokens(each)) - 1].flatten() for value, each in zip(values, prompts, strict=True)]


def _correlations(bridge: Bridge, site_a: str, site_b: str, direction: Tensor, others: Tensor) -> Tensor:
    """On held-out text, of what a direction of A reads with what each of some directions of B reads."""
    both: Moments = bridge.held.couple(site_a, site_b).centred
    spread_a, spread_b = (bridge.held.site(*each).centred.products for each in (("a", site_a), ("b", site_b)))
    d, k = direction.to(both.products), others.to(both.products)
    spread = (d @ spread_a @ d) * ((k @ spread_b) * k).sum(1)
    return (d @ both.products @ k.T) / spread.clamp_min(1e-30).sqrt()
