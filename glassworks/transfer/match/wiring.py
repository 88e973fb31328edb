"""Wiring: whether partners are connected alike, in graphs of the same prompts.

The edges that recur between A's features are looked up between their partners in B. What chance gives is the same with
partners dealt out anew among the features of a coder. This module must not know how partners were found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits import Aggregate, Graph, aggregate
from glassworks.errors import BadInput
from glassworks.transfer.match.dictionary import Dictionary
from glassworks.transfer.match.sought import Sought
from glassworks.transfer.match.together import DRAWS, Interval, draws, interval

Key = tuple[str, str, int]
"""Kind, coder or text, and latent (0 for tokens) of a node."""


@final
@dataclass(frozen=True)
class Wiring:
    """How far the edges of A's graphs are found in B's.

    Attributes:
        prompts: how many were traced.
        features: how many features recur in A's graphs.
        matched: share of them, weighted by influence, whose partner was found.
        recurring: share of these, weighted by influence, whose partner recurs in B's graphs.
        edges: edges of A between matched features, tokens and outcomes, at least one end a feature.
        kept: share of them that B has between the partners.
        chance: the same share with partners dealt out at random, the mean.
        p: share of the dealings, the true one counted among them, with as many edges.
        signs: share of the kept edges that have the same sign; None where there are none.
    """

    prompts: int
    features: int
    matched: float
    recurring: float
    edges: int
    kept: Interval
    chance: float
    p: float
    signs: float | None

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return asdict(self)


def wiring(graphs_a: Sequence[Graph], graphs_b: Sequence[Graph], found: Sought, seed: int = 0) -> Wiring:
    """Compare the edges of two models' graphs through the partners of their features.

    Args:
        graphs_a: graphs of A, of the coders whose features were sought.
        graphs_b: graphs of B on the same prompts.
        found: A's features and their partners in B.
        seed: of the dealing.

    Raises:
        BadInput: other prompts.
    """
    if [each.prompt for each in graphs_a] != [each.prompt for each in graphs_b]:
        raise BadInput("The graphs of the two models are of different prompts; trace the same ones with both.")
    one, other = aggregate(graphs_a), aggregate(graphs_b)
    keys_a, keys_b = _keys(one, graphs_a[0].origin.coders), _keys(other, graphs_b[0].origin.coders)
    edges_b = {(keys_b[each.source], keys_b[each.target]): each.share for each in other.edges}
    partners = _partners(found)
    generator = torch.Generator().manual_seed(seed)
    mapped = [(each, keys_a[each.source], keys_a[each.target]) for each in one.edges]
    mapped = [each for each in mapped if any(_is_feature(key) for key in each[1:]) and _known(partners, each[1:])]
    true = _hits([each[1:] for each in mapped], partners, edges_b)
    by_chance = (
        torch.stack(
            [_hits([each[1:] for each in mapped], _dealt(partners, generator), edges_b).mean() for _ in range(DRAWS)]
        )
        if mapped
        else torch.zeros(DRAWS)
    )
    same = [
        (each.share > 0) == (edges_b[_image(partners, source), _image(partners, target)] > 0)
        for (each, source, target), hit in zip(mapped, true.tolist(), strict=True)
        if hit
    ]
    weights = {key: node.influence for key, node in zip(keys_a, one.nodes, strict=True) if node.kind == "feature"}
    there = {key: weight for key, weight in weights.items() if key in partners}
    recurring = sum(weight for key, weight in there.items() if partners[key] in set(keys_b))
    return Wiring(
        prompts=len(graphs_a),
        features=len(weights),
        matched=sum(there.values()) / max(sum(weights.values()), 1e-30),
        recurring=recurring / max(sum(there.values()), 1e-30),
        edges=len(mapped),
        kept=_share(true, [each[2] for each in mapped]),
        chance=float(by_chance.mean()),
        p=(1 + int((by_chance >= true.mean()).sum())) / (1 + DRAWS) if mapped else 1.0,
        signs=sum(same) / len(same) if same else None,
    )


def _keys(found: Aggregate, coders: Mapping[str, str]) -> list[Key]:
    """What each node is, alike in both models: features by coder and latent, tokens and outcomes by their text."""
    return [
        (node.kind, coders.get(node.place, node.place), node.index)
        if node.kind == "feature"
        else (node.kind, node.name if node.kind != "error" else node.place, 0)
        for node in found.nodes
    ]


def _is_feature(key: Key) -> bool:
    return key[0] == "feature"


def _partners(found: Sought) -> dict[Key, Key]:
    """Feature -> partner, of those that were found."""

    def key(dictionary: Dictionary, feature: int) -> Key:
        return ("feature", *dictionary.place(feature))

    return {
        key(found.home, each): key(found.other, int(found.partner[each]))
        for each in found.found.nonzero()[:, 0].tolist()
    }


def _image(partners: Mapping[Key, Key], key: Key) -> Key:
    return partners[key] if _is_feature(key) else key


def _known(partners: Mapping[Key, Key], ends: Sequence[Key]) -> bool:
    return all(key in partners if _is_feature(key) else key[0] != "error" for key in ends)


def _hits(
    ends: Sequence[Sequence[Key]], partners: Mapping[Key, Key], edges: Mapping[Any, float]
) -> Float[Tensor, " edge"]:
    return torch.tensor([float(tuple(_image(partners, key) for key in pair) in edges) for pair in ends])


def _dealt(partners: Mapping[Key, Key], generator: torch.Generator) -> dict[Key, Key]:
    """Partners dealt out anew among the features of each coder."""
    groups: dict[str, list[Key]] = {}
    for key in partners:
        groups.setdefault(key[1], []).append(key)
    dealt: dict[Key, Key] = {}
    for keys in groups.values():
        order = torch.randperm(len(keys), generator=generator).tolist()
        dealt |= {key: partners[keys[place]] for key, place in zip(keys, order, strict=True)}
    return dealt


def _share(hits: Float[Tensor, " edge"], targets: Sequence[Key]) -> Interval:
    """Share of edges, with an interval over targets drawn anew: edges into one target go together."""
    if not len(hits):
        return 0.0, 0.0, 0.0
    numbers = {key: number for number, key in enumerate(dict.fromkeys(targets))}
    cluster = torch.tensor([numbers[key] for key in targets])
    sums = torch.zeros(2, len(numbers), dtype=torch.float64)
    sums.index_add_(1, cluster, torch.stack([hits.double(), torch.ones_like(hits, dtype=torch.float64)]))
    weights = draws(torch.ones(len(numbers)))
    return interval((weights @ sums[0]) / (weights @ sums[1]).clamp(min=1e-30), 0, 1)
