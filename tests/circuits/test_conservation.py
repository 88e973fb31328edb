"""The conservation law: sources and constants sum up to every target, and a planted error is seen."""

from dataclasses import replace

import pytest
import torch

from glassworks.circuits import Graph, trace
from glassworks.circuits.engine.local import LocalModel, localise, run
from glassworks.circuits.engine.sources import masked_positions, replacement
from glassworks.circuits.engine.sweep import edges
from glassworks.circuits.targets import Likely, choose
from glassworks.coders import JumpReLU, TopK, Transcoder
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import load_model
from glassworks.sites import Site
from tests.circuits.tiny import PROMPT, VOCABULARY, random_clt, random_coder, random_model, random_scope, scope_of


def assert_conserved(graph: Graph) -> None:
    assert graph.conservation.mean() <= 1e-5
    assert graph.conservation.max() <= 1e-4


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_every_row_sums_up(model, skip):
    graph = trace(model, random_scope(model, skip=skip), PROMPT)
    assert int(graph.nodes.of("feature").sum()) >= 30
    assert_conserved(graph)


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_cross_layer_coders_sum_up(model, skip):
    assert_conserved(trace(model, random_clt(model, skip), PROMPT))


@pytest.mark.parametrize("kind", ["mlp_in_pregain", "resid_mid", "resid_pre"])
@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_every_read_site_sums_up(family, kind):
    model = random_model(family)
    graph = trace(model, random_scope(model, kind=kind, skip=True), PROMPT)
    assert int(graph.nodes.of("feature").sum()) >= 30
    assert_conserved(graph)


def test_layers_without_coders_are_error_nodes(model):
    scope = random_scope(model)
    scope.replacement.remove("mlp_in.1")
    graph = trace(model, scope, PROMPT)
    assert not bool((graph.nodes.of("feature") & (graph.nodes.layer == 1)).any())
    errors = graph.nodes.of("error") & (graph.nodes.layer == 1)
    assert graph.nodes.position[errors].tolist() == list(range(1, len(PROMPT)))  # BOS is masked
    assert_conserved(graph)


def test_no_scope_leaves_embeddings_and_errors(model):
    graph = trace(model, None, PROMPT)
    assert set(graph.nodes.kinds.tolist()) == {1, 2, 3}
    assert int(graph.nodes.of("error").sum()) == model.n_layers * len(PROMPT)
    assert_conserved(graph)


def test_one_token(model):
    graph = trace(model, random_scope(model), PROMPT[:1])
    assert [node.kind for node in graph.nodes if node.kind != "logit"] == ["embedding"]
    assert_conserved(graph)


def test_no_feature_is_active():
    model = random_model("gemma3")
    scope = random_scope(model)
    for coder in scope.coders.values():
        coder.activation = JumpReLU(torch.full((coder.d_latent,), 1e9))
    graph = trace(model, scope, PROMPT)
    assert not bool(graph.nodes.of("feature").any())
    assert_conserved(graph)
    assert len(graph.prune().nodes) > len(PROMPT)


def test_repeated_tokens_have_their_own_embeddings():
    model = random_model("llama")
    graph = trace(model, random_scope(model), [0, 5, 5, 5])
    assert int(graph.nodes.of("embedding").sum()) == 4
    assert_conserved(graph)


def test_topk_coders_sum_up():
    model = random_model("qwen2")
    scope = random_scope(model)
    for coder in scope.coders.values():
        coder.activation = TopK(5)
    assert_conserved(trace(model, scope, PROMPT))


def test_half_precision_weights_are_swept_in_float32():
    model = random_model("llama")
    scope = random_scope(model)
    model.hf.to(torch.bfloat16)
    graph = trace(model, scope, PROMPT)
    assert graph.matrix.dtype == torch.float32
    assert graph.conservation.mean() <= 1e-2  # what bfloat16 loses in the forward pass


def test_induction_model_is_explained_without_coders(data):
    model = load_model(data / "models" / "gpt2-induction")
    prompt = "qzkwjxqzk"
    graph = trace(model, None, prompt)
    assert_conserved(graph)
    (best,) = [node for node in graph.nodes if node.kind == "logit" and node.probability > 0.5]
    assert best.label == "w"
    row = graph.matrix[int((graph.nodes.index[graph.rows] == best.index).nonzero()[0, 0])]
    strongest = graph.nodes[int(row.argmax())]
    assert (strongest.kind, strongest.label) == ("embedding", "w")
    assert strongest.position == graph.token_texts.index("w")


def test_the_start_of_a_chat_carries_no_features_where_it_was_not_trained_on():
    scope = random_scope(random_model("gemma3"))
    chat = ["<bos>", "<start_of_turn>", "user", "\n", "Hi"]
    assert masked_positions(scope, chat).tolist() == [True, False, False, False, False]
    scope.untrained = ("bos", "template")
    assert masked_positions(scope, chat).tolist() == [True, True, True, True, False]
    assert masked_positions(scope, ["<bos>", "a", "b"]).tolist() == [True, False, False]


# Planted errors: each of these was, or could be, somebody's bug.


def local_of(family: str) -> LocalModel:
    model = random_model(family)
    scope = random_scope(model)
    coders = replacement(model, scope)
    captured = run(model, coders, PROMPT)
    outcomes = choose(model, scope, captured, [Likely()])
    return localise(model, coders, captured, masked_positions(scope, [""] * len(PROMPT)), outcomes)


def residual(local: LocalModel) -> torch.Tensor:
    matrix, bias = local.edges(), local.biases()
    return (matrix.sum(1) + bias - local.values).abs() / (matrix.abs().sum(1) + bias.abs())


def test_a_missing_embedding_scale_is_caught():
    local = local_of("gemma3")
    assert residual(local).mean() <= 1e-5
    writes = dict(local.sources.writes)
    writes[0] = replace(writes[0], vectors=writes[0].vectors / writes[0].vectors.shape[1] ** 0.5)
    assert residual(replace(local, sources=replace(local.sources, writes=writes))).median() > 1e-2


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_a_missing_gain_is_caught(family):
    model, local = random_model(family), local_of(family)
    norm = model.block(1).attn_norm
    assert norm is not None
    assert norm.gain is not None
    first, second, *rest = local.frozen.attentions
    wrong = replace(second, w_v=second.w_v / norm.gain)
    broken = replace(local, frozen=replace(local.frozen, attentions=(first, wrong, *rest)))
    assert residual(broken).max() > 1e-2


def test_a_missing_head_is_caught():
    local = local_of("llama")
    first, second, *rest = local.frozen.attentions
    w_o = second.w_o.clone()
    w_o[2] = 0
    broken = replace(local, frozen=replace(local.frozen, attentions=(first, replace(second, w_o=w_o), *rest)))
    assert residual(broken).max() > 1e-2


# What a trace refuses.


def test_targets_are_named():
    model = random_model("gemma2")
    graph = trace(model, random_scope(model), PROMPT, targets=[7, (7, 9)])
    assert graph.nodes.labels[-2:] == ("#7", "#7 - #9")
    assert graph.nodes.index[-2:].tolist() == [7, VOCABULARY + 1]
    assert_conserved(graph)
    rest = trace(model, random_scope(model), PROMPT, targets=[9])
    torch.testing.assert_close(graph.matrix[-2] - rest.matrix[-1], graph.matrix[-1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("targets", [[], [7, 7], [(7, 7)], [VOCABULARY], [-1], ["word"]])
def test_bad_targets_are_refused(targets):
    model = random_model("gemma2")
    with pytest.raises((BadInput, NotFound)):
        trace(model, None, PROMPT, targets=targets)


def test_coders_that_do_not_fit_are_refused():
    model, coder = random_model("llama"), random_coder(random_model("llama"), 2)
    weights = coder.weights()
    narrow = {name: value[..., :16] if name != "b_enc" else value for name, value in weights.items()}
    made = Transcoder(Site("mlp_in", 1), Site("mlp_out", 1), coder.activation, narrow)
    with pytest.raises(BadInput, match="width 16"):
        trace(model, scope_of([made]), PROMPT)
    for read, write, kind in (
        (Site("mlp_in", 7), Site("mlp_out", 7), BadInput),
        (Site("mlp_in", 2), Site("mlp_out", 1), Unsupported),
        (Site("mlp_out", 1), Site("mlp_out", 2), Unsupported),
        (Site("mlp_in", 1), Site("resid_pre", 2), Unsupported),
        (Site("attn_in", 1), Site("attn_in", 1), Unsupported),
    ):
        with pytest.raises(kind):
            trace(model, scope_of([Transcoder(read, write, coder.activation, weights)]), PROMPT)


def test_damaged_weights_are_refused():
    model = random_model("llama")
    with torch.no_grad():
        model.hf.get_output_embeddings().weight[3, 3] = torch.nan
    with pytest.raises(BadInput, match="not finite"):
        trace(model, None, PROMPT)


@pytest.mark.parametrize("name", ["w_enc", "b_enc", "w_dec", "b_dec", "w_skip"])
def test_damaged_coders_are_refused(name):
    model = random_model("llama")
    scope = random_scope(model, skip=True)
    with torch.no_grad():
        dict(scope["mlp_in.1"].named_parameters())[name].fill_(torch.nan)
    with pytest.raises(BadInput, match=r"mlp_in\.1 has weights that are not finite"):
        trace(model, scope, PROMPT)


def test_the_size_of_blocks_changes_nothing():
    local = local_of("gemma3")
    inputs = local.frozen, local.sources.writes, local.targets, local.sources.columns
    whole = edges(*inputs)
    for block in (1, 2000):
        torch.testing.assert_close(edges(*inputs, block=block), whole, atol=1e-5, rtol=1e-5)


def test_the_order_of_targets_changes_nothing_else():
    local = local_of("llama")
    order = torch.randperm(len(local.targets))
    mixed = edges(local.frozen, local.sources.writes, local.targets[order], local.sources.columns)
    torch.testing.assert_close(mixed, local.edges()[order], atol=1e-5, rtol=1e-5)


def test_the_graph_knows_the_predictions():
    model = random_model("llama")
    graph = trace(model, None, PROMPT, targets=[3])
    wanted = [{"token": each.token, "id": each.id} for each in model.predict(PROMPT, 10)]
    assert [{"token": each["token"], "id": each["id"]} for each in graph.origin.facts["predictions"]] == wanted
