"""Evolve: how concepts change with depth, as chains of features that are each other's best partner from layer to layer.

A feature that has no partner in the layer below is born, one that has none above dies; along a chain what it writes
drifts. This module must not know how partners are judged.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.transfer.match.dictionary import Dictionary
from glassworks.transfer.match.match import halves, matched, rows
from glassworks.transfer.match.sought import Sought
from glassworks.transfer.match.together import Interval
from glassworks.transfer.pairing import PairedText


@final
@dataclass(frozen=True)
class Step:
    """What becomes of features from one layer to the next.

    Attributes:
        lower: the coder below.
        upper: the coder above.
        alive: how many features of each could be judged.
        going_on: share of the lower ones that are found above; the others die.
        known: share of the upper ones that are found below; the others are born.
        chained: pairs that are each other's best partner.
        split: lower features that are the best partner of several upper ones.
        merged: upper features that are the best partner of several lower ones.
        r: mean correlation of the chained pairs.
        cosine: mean cosine of what they write.
    """

    lower: str
    upper: str
    alive: tuple[int, int]
    going_on: Interval
    known: Interval
    chained: int
    split: int
    merged: int
    r: float
    cosine: float


@final
@dataclass(frozen=True)
class Chain:
    """One concept on its way up.

    Attributes:
        features: names of its features, from below.
        labels: their labels.
        r: correlation of each with the next.
        cosine: of what each and the next write.
    """

    features: tuple[str, ...]
    labels: tuple[str, ...]
    r: tuple[float, ...]
    cosine: tuple[float, ...]


@final
@dataclass(frozen=True, eq=False)
class Evolution:
    """How the features of a model change with depth.

    Attributes:
        model: its name.
        found: its features sought among themselves.
        steps: from each layer to the next.
        chains: those of at least two features, the longest and closest first.
    """

    model: str
    found: Sought
    steps: tuple[Step, ...]
    chains: tuple[Chain, ...]

    def plain(self, most: int = 50) -> dict[str, Any]:
        """The figures and some chains as JSON values."""
        lengths = torch.bincount(torch.tensor([len(each.features) for each in self.chains] or [0])).tolist()
        return {
            "model": self.model,
            "steps": [asdict(each) for each in self.steps],
            "lengths": {str(length): count for length, count in enumerate(lengths) if length > 1},
            "chains": [asdict(each) for each in self.chains[:most]],
        }


def evolve(model: Model, scope: Scope, texts: Iterable[PairedText], chosen: str = "", seed: int = 0) -> Evolution:
    """Follow features through the layers of a model.

    Args:
        model: the model.
        scope: coders at several of its layers.
        texts: what it reads.
        chosen: which coders, one a layer; see `Dictionary.of`.
        seed: of the halves and of what is random.

    Raises:
        BadInput: fewer than two coders, several at a layer, or too little text.
    """
    layers = ladder(Dictionary.of(scope, chosen))
    halved = halves(model, model, texts, seed)
    choosing, measuring = (rows(model, model, half, layers.sites, layers.sites) for half in halved)
    return followed(matched(layers, layers, choosing, measuring, seed).forward, model.name)


def ladder(dictionary: Dictionary) -> Dictionary:
    """The coders in the order of the layers that they read; BadInput unless there is one at each of several layers."""
    layers = {name: [site.layer for site in coder.reads] for name, coder in dictionary.coders.items()}
    single = {name: each[0] for name, each in layers.items() if len(each) == 1 and each[0] is not None}
    if len(single) < 2 or len(single) < len(layers) or len(set(single.values())) < len(single):
        told = ", ".join(dictionary.names)
        raise BadInput(f"Concepts are followed through one coder at each of several layers; these are {told}.")
    return Dictionary(
        {name: dictionary.coders[name] for name in sorted(single, key=single.__getitem__)}, dictionary.labels
    )


def followed(found: Sought, name: str = "") -> Evolution:
    """Chain what was found of a dictionary's features among themselves.

    Args:
        found: features of coders in the order of layers, sought in the same coders.
        name: of the model.
    """
    links = [linked(found, number) for number in range(len(found.home.names) - 1)]
    above = {low: high for each in links for low, high in each.items()}
    steps = tuple(_step(found, number, each) for number, each in enumerate(links))
    starts = sorted(set(above) - set(above.values()))
    chains = sorted(
        (_chain(found, start, above) for start in starts), key=lambda each: (-len(each.features), -sum(each.r))
    )
    return Evolution(name, found, steps, tuple(chains))


def linked(found: Sought, number: int) -> dict[int, int]:
    """Features of one coder -> those of the next one, where both are found in each other's and each is the best."""
    low, high = (found.home.home == each for each in (number, number + 1))
    up, down = found.places.partner[:, number + 1], found.places.partner[:, number]
    mutual = low & (up >= 0) & found.places.found[:, number + 1]
    mutual &= (down[up.clamp(min=0)] == torch.arange(len(up))) & (high & found.places.found[:, number])[up.clamp(min=0)]
    return {each: int(up[each]) for each in mutual.nonzero()[:, 0].tolist()}


def _step(found: Sought, number: int, links: dict[int, int]) -> Step:
    low, high = (found.alive & (found.home.home == each) for each in (number, number + 1))
    pairs = [_closeness(found, *pair) for pair in links.items()]
    r, cosine = (sum(each) / len(each) for each in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return Step(
        lower=found.home.names[number],
        upper=found.home.names[number + 1],
        alive=(int(low.sum()), int(high.sum())),
        going_on=found.places.shares[number][number + 1],
        known=found.places.shares[number + 1][number],
        chained=len(links),
        split=_shared(found.places.partner[:, number], high & found.places.found[:, number]),
        merged=_shared(found.places.partner[:, number + 1], low & found.places.found[:, number + 1]),
        r=r,
        cosine=cosine,
    )


def _shared(partners: Tensor, mine: Bool[Tensor, " feature"]) -> int:
    """How many partners some features have in common with another of them."""
    return int((torch.bincount(partners[mine].clamp(min=0)) > 1).sum())


def _chain(found: Sought, start: int, above: dict[int, int]) -> Chain:
    features = [start]
    while features[-1] in above:
        features.append(above[features[-1]])
    steps = [_closeness(found, low, high) for low, high in pairwise(features)]
    return Chain(
        tuple(found.home.name(each) for each in features),
        tuple(found.home.label(each) for each in features),
        tuple(round(r, 4) for r, _ in steps),
        tuple(round(cosine, 4) for _, cosine in steps),
    )


def _closeness(found: Sought, low: int, high: int) -> tuple[float, float]:
    """Correlation of two features of neighbouring layers, and cosine of what they write."""
    one, other = (_direction(found.home, each) for each in (low, high))
    return float(found.places.r[low, found.home.home[high]]), float(functional.cosine_similarity(one, other, dim=0))


def _direction(dictionary: Dictionary, feature: int) -> Float[Tensor, " d"]:
    name, latent = dictionary.place(feature)
    coder = dictionary.coders[name]
    return coder.decoder_rows(torch.tensor([latent]), coder.writes[0])[0].float()
