"""Depth: how concepts change from layer to layer, as chains of features that are each other's best partner.

A feature that has no partner in the layer below is born, one that has none above dies; along a chain what it writes
drifts.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, final

import torch
from torch.nn import functional

from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.pages import facts, with_interval
from glassworks.transfer.coactivation import Interval
from glassworks.transfer.dictionary import Dictionary
from glassworks.transfer.match import FeatureMatches, match_dictionaries, rows, text_halves
from glassworks.transfer.pairing import PairedText

PRINTED = 10
"""Rows of a printed table."""


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
        matches: its features matched among themselves.
        steps: from each layer to the next.
        chains: those of at least two features, the longest and closest first.
    """

    model: str
    matches: FeatureMatches
    steps: tuple[Step, ...]
    chains: tuple[Chain, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Rows of a table, one a step from layer to layer."""
        return [
            {
                "step": f"{step.lower} -> {step.upper}",
                "found above": with_interval(step.going_on),
                "found below": with_interval(step.known),
                "chained": step.chained,
                "split": step.split,
                "merged": step.merged,
                "r": step.r,
                "cosine": step.cosine,
            }
            for step in self.steps
        ]

    def __rich__(self) -> Any:
        chains = [
            {"chain": " -> ".join(chain.features), "label": chain.labels[0], "last label": chain.labels[-1]}
            for chain in self.chains[:PRINTED]
        ]
        return facts({"steps": self.rows()} | ({"chains": chains} if chains else {}))

    def plain(self, most: int = 50) -> dict[str, Any]:
        """The figures and some chains as JSON values."""
        lengths = [len(chain.features) for chain in self.chains]
        return {
            "model": self.model,
            "steps": [asdict(step) for step in self.steps],
            "lengths": {str(length): lengths.count(length) for length in range(2, max(lengths, default=0) + 1)},
            "chains": [asdict(chain) for chain in self.chains[:most]],
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
    dictionary = Dictionary.of(scope, chosen)
    layers = {name: [site.layer for site in coder.reads] for name, coder in dictionary.coders.items()}
    single = {name: own[0] for name, own in layers.items() if len(own) == 1 and own[0] is not None}
    if len(single) < 2 or len(single) < len(layers) or len(set(single.values())) < len(single):
        names = ", ".join(dictionary.names)
        raise BadInput(f"Concepts are followed through one coder at each of several layers; these are {names}.")
    ordered = {name: dictionary.coders[name] for name in sorted(single, key=single.__getitem__)}
    dictionary = Dictionary(ordered, dictionary.labels)
    halves = text_halves(model, model, texts, seed)
    choosing, measuring = (rows(model, model, half, dictionary.sites, dictionary.sites) for half in halves)
    matching = match_dictionaries(dictionary, dictionary, choosing, measuring, seed)
    return follow_chains(matching.forward, model.name)


def follow_chains(matches: FeatureMatches, name: str = "") -> Evolution:
    """Chain features of a dictionary that were matched among themselves.

    Args:
        matches: features of coders in the order of layers, matched with the same coders.
        name: of the model.
    """
    home, partner, found = matches.home, matches.coder_partner, matches.coder_found
    directions = []
    for coder in home.coders.values():
        rows = coder.decoder_rows(torch.arange(coder.d_latent), coder.writes[0])
        directions.append(functional.normalize(rows.float().cpu(), dim=1))

    def closeness(low: int, high: int) -> tuple[float, float]:
        """Correlation of two features of neighbouring layers, and cosine of what they write."""
        below, above = int(home.home[low]), int(home.home[high])
        one, other = directions[below][low - home.starts[below]], directions[above][high - home.starts[above]]
        return float(matches.coder_r[low, above]), float(one @ other)

    above: dict[int, int] = {}
    steps = []
    for number in range(len(home.names) - 1):
        low, high = (home.home == layer for layer in (number, number + 1))
        up, down = partner[:, number + 1], partner[:, number]
        best = up.clamp(min=0)
        mutual = low & (up >= 0) & found[:, number + 1] & (down[best] == torch.arange(len(up)))
        mutual &= (high & found[:, number])[best]
        links = {feature: int(up[feature]) for feature in mutual.nonzero()[:, 0].tolist()}
        pairs = [closeness(*link) for link in links.items()]
        mean_r, mean_cosine = (sum(values) / len(values) for values in zip(*pairs, strict=True)) if pairs else (0, 0)
        alive_low, alive_high = matches.alive & low, matches.alive & high
        chosen_low, chosen_high = down[alive_high & found[:, number]], up[alive_low & found[:, number + 1]]
        step = Step(
            lower=home.names[number],
            upper=home.names[number + 1],
            alive=(int(alive_low.sum()), int(alive_high.sum())),
            going_on=matches.shares[number][number + 1],
            known=matches.shares[number + 1][number],
            chained=len(links),
            split=int((torch.bincount(chosen_low.clamp(min=0)) > 1).sum()),
            merged=int((torch.bincount(chosen_high.clamp(min=0)) > 1).sum()),
            r=float(mean_r),
            cosine=float(mean_cosine),
        )
        steps.append(step)
        above |= links

    chains = []
    for start in sorted(set(above) - set(above.values())):
        features = [start]
        while features[-1] in above:
            features.append(above[features[-1]])
        r, cosine = zip(*(closeness(*link) for link in pairwise(features)), strict=True)
        names = tuple(home.name(feature) for feature in features)
        labels = tuple(home.label(feature) for feature in features)
        chains.append(Chain(names, labels, tuple(round(v, 4) for v in r), tuple(round(v, 4) for v in cosine)))
    chains.sort(key=lambda chain: (-len(chain.features), -sum(chain.r)))
    return Evolution(name, matches, tuple(steps), tuple(chains))
