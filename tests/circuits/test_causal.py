"""The causal law: change a source in the real frozen model, and every target moves as its edge says.

Measured with `model.edit`, which shares nothing with the adjoint sweep: forward passes of the real model.
"""

import random

import pytest
import torch

from glassworks.circuits import Graph, Node, trace
from glassworks.coders import Scope
from glassworks.edits import FeatureRef, add_vector, scale_features
from glassworks.models import Edit, Model
from tests.circuits.tiny import CONFIGS, PROMPT, parts_of, random_clt, random_model, random_scope

pytestmark = pytest.mark.slow

FROZEN = ("patterns", "norms", "mlps")
TIMES = 16.0  # edges are linear, and a large change drowns the rounding
SOURCES = {"feature": 4, "error": 2, "embedding": 2}


def values_of(model: Model, graph: Graph, scope: Scope) -> torch.Tensor:
    """Every target of the graph, read from the model as it now runs: pre-activations, then demeaned logits."""
    captured = model.capture(PROMPT, [*(coder.reads[0] for coder in parts_of(scope)), "logits"])
    found = []
    for coder in parts_of(scope):
        mine = graph.nodes.of("feature") & (graph.nodes.layer == coder.reads[0].layer)
        read = coder.preactivations(captured[coder.reads[0].name])
        found.append(read[graph.nodes.position[mine], graph.nodes.index[mine]])
    logits = captured["logits"][-1]
    if model.softcap:
        logits = model.softcap * torch.atanh(logits / model.softcap)
    return torch.cat([*found, (logits - logits.mean())[graph.nodes.index[graph.nodes.of("logit")]]]).detach()


def edit_of(model: Model, scope: Scope, node: Node, embeddings: torch.Tensor) -> Edit:
    """Add a source `TIMES` more; the embedding is what Hugging Face itself says it is."""
    if node.kind == "feature":
        (name,) = [coder.id for coder in parts_of(scope) if coder.reads[0].layer == node.layer]
        return scale_features([FeatureRef(name, node.position, node.index)], 1 + TIMES, scope)
    if node.kind == "embedding":
        return add_vector("embed", TIMES * embeddings[node.position], node.position)
    captured = model.capture(PROMPT, [*(coder.reads[0] for coder in parts_of(scope)), f"mlp_out.{node.layer}"])
    error = captured[f"mlp_out.{node.layer}"].clone()
    for coder in parts_of(scope):
        for write in coder.writes:
            if write.layer == node.layer:
                x, skip = captured[coder.reads[0].name], coder.skip(write)
                error -= coder.decode(coder.encode(x), write) + (0.0 if skip is None else x @ skip)
    return add_vector(f"mlp_out.{node.layer}", TIMES * error[node.position].detach(), node.position)


CASES = [(family, random_scope) for family in CONFIGS] + [("gemma3", random_clt), ("gpt_neox", random_clt)]


@pytest.mark.parametrize(("family", "make"), CASES, ids=[f"{name}-{make.__name__[7:]}" for name, make in CASES])
def test_changed_sources_move_targets_by_their_edges(family, make):
    model = random_model(family)
    scope = make(model)
    graph = trace(model, scope, PROMPT)
    embeddings = model.hf(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states[0][0].detach()
    rng, sizes = random.Random(0), graph.matrix.abs().sum(1)
    clean = values_of(model, graph, scope)
    pairs = 0
    for kind, count in SOURCES.items():
        numbers = [each for each in graph.nodes.of(kind).nonzero()[:, 0].tolist() if bool(graph.matrix[:, each].any())]
        for source in rng.sample(numbers, count):
            with model.edit(edit_of(model, scope, graph.nodes[source], embeddings), frozen=FROZEN):
                measured = (values_of(model, graph, scope) - clean) / TIMES
            edges = graph.matrix[:, source]
            assert ((measured - edges).abs() <= 1e-3 * edges.abs() + 2e-6 * sizes).all()
            pairs += int((edges != 0).sum())
    assert pairs >= 200
