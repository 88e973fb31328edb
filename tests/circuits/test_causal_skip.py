"""The causal law with skips: what is linear stays live, also in the real frozen model."""

import pytest
import torch

from glassworks.circuits import trace
from glassworks.edits import live_skips
from tests.circuits.test_causal import FROZEN, TIMES, edit_of, values_of
from tests.circuits.tiny import PROMPT, random_model, random_scope

FAMILIES = ("gemma3", "llama", "gpt2", "gpt_neox")


def largest_miss(family: str, keep: bool) -> float:
    """How far the real model's changes are from the edges of each kind's strongest source, of the row's size."""
    model = random_model(family)
    scope = random_scope(model, skip=True)
    graph = trace(model, scope, PROMPT)
    embeddings = model.hf(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states[0][0].detach()
    clean, sizes, misses = values_of(model, graph, scope), graph.matrix.abs().sum(1), []
    for kind in ("feature", "error", "embedding"):
        numbers = graph.nodes.of(kind).nonzero()[:, 0]
        source = int(numbers[graph.matrix[:, numbers].abs().sum(0).argmax()])
        edits = [edit_of(model, scope, graph.nodes[source], embeddings)] + [live_skips(scope)] * keep
        with model.edit(*edits, frozen=FROZEN):
            measured = (values_of(model, graph, scope) - clean) / TIMES
        misses.append(float(((measured - graph.matrix[:, source]).abs() / sizes).max()))
    return max(misses)


@pytest.mark.parametrize("family", FAMILIES)
def test_edges_count_what_passes_through_skips(family):
    assert largest_miss(family, keep=True) <= 1e-4


def test_without_the_skips_the_law_fails():
    assert largest_miss("llama", keep=False) > 1e-3
