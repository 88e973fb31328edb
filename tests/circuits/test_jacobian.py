"""Autoencoders on the stream and on MLP outputs: edges are the real model's derivatives, and say that they are."""

import pytest
import torch

from glassworks.circuits import Budget, Graph, load_graph, trace
from glassworks.circuits.nodes import PARTS
from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.sites import Site
from tests.circuits.test_attention_coders import random_sae
from tests.circuits.tiny import PROMPT, random_coder, random_model, scope_of

STEP = 1e-3


def autoencoders(model: Model, *sites: str) -> Scope:
    torch.manual_seed(4)
    return scope_of([random_sae(model, Site.parse(site), l0=4) for site in sites])


def felt(model: Model, scope: Scope, graph: Graph, at: str, change: torch.Tensor) -> torch.Tensor:
    """Every target in double precision, one cut changed and all others held."""
    sites = [coder.writes[0] for coder in scope.coders.values()]
    clean, seen = model.capture(PROMPT, [*sites, "embed"]), {}

    def cut(site: Site):
        def tap(value: torch.Tensor) -> torch.Tensor:
            seen[site.name] = value[0].clone()
            return (clean[site.name] + change * (site.name == at))[None]

        return tap

    with model.tapped({site: cut(site) for site in (*sites, Site("embed"))}):
        logits = model.capture(PROMPT, ["logits"])["logits"][-1]
    found = []
    for place, name in graph.origin.coders.items():
        part, layer = place.split(".")
        mine = graph.nodes.of("feature") & (graph.nodes.layer == int(layer)) & (graph.nodes.part == PARTS.index(part))
        rows = scope[name].encoder_rows(graph.nodes.index[mine]).double()
        found.append((seen[name][graph.nodes.position[mine]] * rows).sum(1))
    return torch.cat([*found, (logits - logits.mean())[graph.nodes.index[graph.nodes.of("logit")]]])


CASES = [
    ("llama", ("resid_post.0", "resid_post.1")),
    ("gemma3", ("resid_pre.1", "resid_mid.1", "resid_post.2")),
    ("gpt2", ("mlp_out.0", "mlp_out.1", "mlp_out.2")),
    ("gpt_neox", ("mlp_out.0", "attn_out.1", "resid_post.1")),
]


@pytest.mark.parametrize(("family", "sites"), CASES, ids=[f"{family}-{'-'.join(sites)}" for family, sites in CASES])
def test_edges_are_derivatives_of_the_real_model(family, sites):
    model = random_model(family)
    scope = autoencoders(model, *sites)
    graph = trace(model, scope, PROMPT)
    assert graph.origin.facts["approximate"]
    assert graph.residual is None
    model.hf.double()
    logits = int(graph.nodes.of("logit").sum())
    numbers = graph.matrix.abs().sum(0).topk(5).indices.tolist()
    for number in numbers:
        node = graph.nodes[number]
        at = "embed" if node.kind == "embedding" else graph.origin.coders[node.place]
        vector = vector_of(model, scope, graph, number)
        change = torch.zeros(len(PROMPT), model.d_model, dtype=torch.float64)
        change[node.position] = STEP * vector
        moved = (felt(model, scope, graph, at, change) - felt(model, scope, graph, at, -change)) / (2 * STEP)
        # The final norm is frozen for outcomes, so only the features' rows are plain derivatives.
        torch.testing.assert_close(moved[:-logits].float(), graph.matrix[:-logits, number], atol=1e-4, rtol=1e-2)


def vector_of(model: Model, scope: Scope, graph: Graph, number: int) -> torch.Tensor:
    node = graph.nodes[number]
    if node.kind == "embedding":
        return model.capture(PROMPT, ["embed"])["embed"][node.position].double()
    coder = scope[graph.origin.coders[node.place]]
    if node.kind == "feature":
        return (node.activation * coder.decoder_rows(torch.tensor([node.index]))[0]).double()
    x = model.capture(PROMPT, coder.writes)[coder.writes[0].name].float()
    return (x - coder(x))[node.position].double()


def test_the_stream_is_cut(tmp_path):
    model = random_model("llama")
    graph = trace(model, autoencoders(model, "resid_post.0", "resid_post.1"), PROMPT)
    upper = (graph.nodes.of("feature") & (graph.nodes.layer == 1))[graph.rows]
    embeddings = graph.nodes.of("embedding")[: graph.matrix.shape[1]]
    assert not bool(graph.matrix[upper][:, embeddings].any())
    assert bool(graph.matrix[~upper][:, embeddings].any())
    assert {node.part for node in graph.nodes if node.kind != "embedding" and node.kind != "logit"} == {"resid_post"}
    graph.save(tmp_path / "graph")
    assert load_graph(tmp_path / "graph").residual is None
    assert 0 < graph.replacement <= 1


def test_transcoders_can_stand_beside_autoencoders():
    model = random_model("llama")
    torch.manual_seed(4)
    coders = [random_sae(model, Site("resid_post", 0)), random_coder(model, 2, skip=True)]
    graph = trace(model, scope_of(coders), PROMPT)
    assert graph.origin.coders == {"resid_post.0": "resid_post.0", "mlp.2": "mlp_in.2"}
    into = (graph.nodes.of("feature") & (graph.nodes.layer == 2))[graph.rows]
    assert bool(graph.matrix[into].any())


def test_budgets_are_for_exact_graphs():
    model = random_model("llama")
    with pytest.raises(BadInput, match="approximate"):
        trace(model, autoencoders(model, "resid_post.0"), PROMPT, budget=Budget(rows=3))
