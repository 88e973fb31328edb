"""Autoencoders on attention outputs: exact nodes, which feel the model's weights like any other."""

from collections.abc import Callable

import pytest
import torch

from glassworks.circuits import Graph, trace
from glassworks.circuits.nodes import PARTS
from glassworks.coders import Coder, JumpReLU, Scope, Transcoder
from glassworks.errors import BadInput, Unsupported
from glassworks.models import Model
from glassworks.sites import Site
from tests.circuits.tiny import LATENTS, PROMPT, random_coder, random_model, scope_of

FAMILIES = ("gemma2", "gemma3", "llama", "qwen3", "gpt2", "gpt_neox", "olmo2")
TIMES = 8.0


def random_sae(model: Model, site: Site, l0: int = 6) -> Transcoder:
    """An autoencoder with random weights, of which about `l0` latents are active a token."""
    x = model.capture(PROMPT, [site])[site.name]
    unit = torch.nn.functional.normalize
    weights = {"w_enc": unit(torch.randn(LATENTS, x.shape[1]), dim=1), "b_enc": 0.1 * torch.randn(LATENTS)}
    weights |= {"w_dec": 0.3 * unit(torch.randn(LATENTS, x.shape[1]), dim=1), "b_dec": 0.1 * torch.randn(x.shape[1])}
    level = (x @ weights["w_enc"].T + weights["b_enc"]).flatten().topk(l0 * len(PROMPT)).values.min()
    return Transcoder(site, site, JumpReLU(level.expand(LATENTS).clamp(min=0).clone()), weights)


def mixed_scope(model: Model, kind: str, skip: bool = False) -> Scope:
    """Attention autoencoders of two layers beside a transcoder a layer."""
    torch.manual_seed(3)
    coders: list[Coder] = [random_coder(model, layer, skip=skip) for layer in range(model.n_layers)]
    return scope_of([*coders, *(random_sae(model, Site(kind, layer)) for layer in (0, 2))])


@pytest.mark.parametrize("kind", ["attn_out", "attn_heads"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_sums_up(family, kind):
    model = random_model(family)
    graph = trace(model, mixed_scope(model, kind, skip=True), PROMPT)
    attention = graph.nodes.part == 1
    assert int((attention & graph.nodes.of("feature")).sum()) >= 30
    assert sorted({int(each) for each in graph.nodes.layer[attention]}) == [0, 2]
    assert graph.conservation.max() <= 1e-4
    assert graph.conservation.mean() <= 1e-5
    assert graph.origin.coders["attention.2"] == f"{kind}.2"


def values_of(model: Model, scope: Scope, graph: Graph, layer: int, change: torch.Tensor) -> torch.Tensor:
    """Every target in the real model, where a replaced attention layer writes more; what is replaced feels nothing."""
    sites = [Site("attn_out", each) for each in (0, 2)]
    clean, felt = model.capture(PROMPT, sites), {}

    def replaced(site: Site) -> Callable[[torch.Tensor], torch.Tensor]:
        def tap(value: torch.Tensor) -> torch.Tensor:
            felt[site.name] = value[0].clone()
            return (clean[site.name] + change * (site.layer == layer))[None]

        return tap

    reads = [Site("mlp_in", each) for each in range(model.n_layers)]
    with model.edit(frozen=("patterns", "norms", "mlps")), model.tapped({site: replaced(site) for site in sites}):
        felt |= model.capture(PROMPT, [*reads, "logits"])
    found = []
    for place, name in graph.origin.coders.items():
        part, layer = place.split(".")
        mine = graph.nodes.of("feature") & (graph.nodes.layer == int(layer)) & (graph.nodes.part == PARTS.index(part))
        values = scope[name].preactivations(felt[scope[name].reads[0].name])
        found.append(values[graph.nodes.position[mine], graph.nodes.index[mine]])
    logits = felt["logits"][-1]
    return torch.cat([*found, (logits - logits.mean())[graph.nodes.index[graph.nodes.of("logit")]]]).detach()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_changed_feature_moves_targets_by_its_edges(family):
    model = random_model(family)
    scope = mixed_scope(model, "attn_out")
    graph = trace(model, scope, PROMPT)
    numbers = (graph.nodes.of("feature") & (graph.nodes.part == 1)).nonzero()[:, 0].tolist()
    numbers = sorted(numbers, key=lambda each: -float(graph.matrix[:, each].abs().sum()))[:3]
    for number in numbers:
        node = graph.nodes[number]
        change = torch.zeros(len(PROMPT), model.d_model)
        row = scope[graph.origin.coders[node.place]].decoder_rows(torch.tensor([node.index]))[0]
        change[node.position] = node.activation * row
        moved = values_of(model, scope, graph, node.layer, TIMES * change)
        moved = (moved - values_of(model, scope, graph, node.layer, 0 * change)) / TIMES
        torch.testing.assert_close(moved, graph.matrix[:, number], atol=1e-4, rtol=1e-2)
        lower = graph.nodes.levels[graph.rows] <= graph.nodes.levels[number]
        assert not bool(graph.matrix[lower, number].any())


def test_what_reads_attention_reads_no_stream_beside_it():
    model = random_model("gemma3")
    graph = trace(model, mixed_scope(model, "attn_out"), PROMPT)
    readers = (graph.nodes.part[graph.rows] == 1) & (graph.nodes.layer[graph.rows] == 2)
    own = (graph.nodes.part == 1) & (graph.nodes.layer == 2)
    assert bool(graph.matrix[readers].any())
    assert not bool(graph.matrix[readers][:, own[: graph.matrix.shape[1]]].any())


def test_two_coders_of_one_part_are_refused():
    model = random_model("llama")
    scope = scope_of([random_sae(model, Site("attn_out", 1)), random_sae(model, Site("attn_heads", 1))])
    with pytest.raises(Unsupported, match="attention part of layer 1"):
        trace(model, scope, PROMPT)


def test_a_width_that_does_not_fit_is_refused():
    model = random_model("gemma3")
    sae = random_sae(model, Site("attn_out", 1))
    wrong = Transcoder(Site("attn_heads", 1), Site("attn_heads", 1), sae.activation, sae.weights())
    with pytest.raises(BadInput, match="width 32"):
        trace(model, scope_of([wrong]), PROMPT)


def test_nodes_of_one_layer_keep_their_names_in_the_json():
    model = random_model("llama")
    graph = trace(model, mixed_scope(model, "attn_out"), PROMPT)
    data = graph.to_json()
    ids = [node["node_id"] for node in data["nodes"]]
    assert len(set(ids)) == len(ids)
    again = Graph.from_json(data)
    assert torch.equal(again.nodes.part, graph.nodes.part)
    torch.testing.assert_close(again.matrix, graph.matrix)
