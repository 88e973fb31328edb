"""Matched random features: the control for a claim about a group."""

from random import Random

import pytest
import torch

from glassworks.circuits.nodes import EMBEDDING, FEATURE, NEAREST, Nodes
from glassworks.errors import BadInput


def table(activations: list[float], layers: list[int]) -> Nodes:
    count = len(layers)
    columns = {"position": torch.ones(count, dtype=torch.long), "layer": torch.tensor(layers)}
    columns |= {"index": torch.arange(count), "activation": torch.tensor(activations)}
    features = Nodes.build(FEATURE, columns, [""] * count)
    tokens = Nodes.build(EMBEDDING, {"position": torch.arange(2), "index": torch.arange(2)}, ["a", "b"])
    return Nodes.cat([features, tokens])


def test_matches_are_other_features_of_the_same_layer_and_like_activation():
    nodes = table([2.0**n for n in range(30)] + [1.0] * 5, [0] * 30 + [1] * 5)
    group = torch.tensor([4, 20, 31])
    for seed in range(20):
        found = nodes.matched(group, Random(seed))
        assert len(set(found)) == 3
        assert not set(found) & set(group.tolist())
        assert nodes.layer[found].tolist() == [0, 0, 1]
        assert abs(found[0] - 4) <= NEAREST
        assert abs(found[1] - 20) <= NEAREST


def test_tokens_in_the_group_are_passed_over():
    assert len(table([1.0, 2.0], [0, 0]).matched(torch.tensor([0, 2]), Random(0))) == 1


def test_a_layer_without_other_features_is_refused():
    with pytest.raises(BadInput, match="Layer 0 has too few"):
        table([1.0, 2.0], [0, 0]).matched(torch.tensor([0, 1]), Random(0))
