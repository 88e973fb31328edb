"""Targets: every kind, at any position, has a row that adds up and moves as its edges say."""

from dataclasses import replace

import pytest
import torch

from glassworks.circuits import Continuation, Direction, Feature, Likely, Logit, trace
from glassworks.circuits.targets import PromptRun, read_target
from glassworks.edits import FeatureRef, add_vector
from glassworks.errors import BadInput, NotFound, Unsupported
from tests.circuits.tiny import CONFIGS, PROMPT, VOCABULARY, random_model, random_scope

FROZEN = ("patterns", "norms", "mlps")


def measure(model, scope, plain):
    """The outcomes' values, read from the model as it now runs."""
    reads = [read_target(each) for each in plain]
    captured = model.capture(PROMPT, ["logits", *(site for read in reads for site in read.sites(scope))])
    return torch.stack([read.value(PromptRun(model, scope, captured)) for read in reads])


def every_kind(model):
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(4))
    mid = "mlp_in.1" if model.parallel else "resid_mid.1"
    sites = ("resid_pre.1", mid, "resid_post.1", "resid_post.2", "mlp_in.2")
    return [
        7,
        (7, 9),
        Logit(11, position=4),
        Logit(11, 3, position=-2),
        FeatureRef("mlp_in.1", 5, 17),
        Feature("mlp_in.2", 3),
        *(Direction(vector, site, place + 1, f"d{place}") for place, site in enumerate(sites)),
    ]


@pytest.mark.parametrize("family", CONFIGS)
def test_every_kind_of_target_adds_up_and_can_be_measured_again(family):
    model = random_model(family)
    scope = random_scope(model)
    graph = trace(model, scope, PROMPT, targets=every_kind(model))
    outcomes = graph.nodes.of("logit").nonzero()[:, 0]
    assert graph.nodes.position[outcomes].tolist() == [8, 8, 4, 7, 5, 8, 1, 2, 3, 4, 5]
    assert graph.nodes.index[outcomes].tolist() == [7, VOCABULARY + 1, 11, *range(VOCABULARY + 3, VOCABULARY + 11)]
    assert graph.nodes.labels[-11:-5] == (
        "#7", "#7 - #9", "#11", "#11 - #3", "mlp_in.1 feature 17", "mlp_in.2 feature 3",
    )  # fmt: skip
    assert graph.conservation.max() <= 1e-4
    assert graph.conservation[-11:].max() <= 1e-5
    plain = graph.origin.facts["targets"]
    torch.testing.assert_close(measure(model, scope, plain), graph.values[-11:])


@pytest.mark.parametrize("family", ["gemma3", "gpt_neox"])
def test_every_kind_of_target_moves_as_its_edges_say(family):
    model = random_model(family)
    scope = random_scope(model)
    graph = trace(model, scope, PROMPT, targets=every_kind(model))
    plain, times = graph.origin.facts["targets"], 16.0
    embeddings = model.hf(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states[0][0].detach()
    start = int(graph.nodes.of("embedding").nonzero()[0, 0])
    sizes = graph.matrix[-11:].abs().sum(1)
    for position in (1, 4, 6):
        edit = add_vector("embed", times * embeddings[position], position)
        with model.edit(edit, frozen=FROZEN):
            moved = (measure(model, scope, plain) - graph.values[-11:]) / times
        edges = graph.matrix[-11:, start + position]
        assert ((moved - edges).abs() <= 1e-3 * edges.abs() + 2e-6 * sizes).all()
        assert not bool(edges[graph.nodes.position[graph.rows[-11:]] < position].any())


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "gpt_neox"])
def test_outputs_of_heads_can_be_targets(family):
    model = random_model(family)
    widths = {name: model.capture(PROMPT, [name])[name].shape[1] for name in ("attn_out.1", "attn_heads.2")}
    target = [Direction(torch.randn(width), name, 6, name) for name, width in widths.items()]
    graph = trace(model, random_scope(model), PROMPT, targets=target)
    assert graph.conservation[-2:].max() <= 1e-5


def test_a_feature_as_target_has_the_edges_of_its_node():
    model = random_model("llama")
    scope = random_scope(model)
    graph = trace(model, scope, PROMPT)
    node = graph.nodes[int(graph.nodes.of("feature").nonzero()[-1, 0])]
    name = scope.replacement[node.layer]
    target = trace(model, scope, PROMPT, targets=FeatureRef(name, node.position, node.index))
    row = (target.rows == int(graph.nodes.of("feature").nonzero()[-1, 0])).nonzero()[0, 0]
    torch.testing.assert_close(target.matrix[-1], target.matrix[row])
    assert target.prune().nodes.of("feature").any()


def test_likely_tokens_are_the_smallest_set_with_the_share():
    model = random_model("gemma2")
    probability = model.capture(PROMPT, ["logits"])["logits"][5].softmax(0)
    graph = trace(model, None, PROMPT, targets=Likely(5, share=0.2, most=40))
    found = graph.nodes.probability[graph.nodes.of("logit")]
    assert found.tolist() == probability.topk(len(found)).values.tolist()
    assert float(found.sum()) >= 0.2 > float(found[:-1].sum())
    whole = trace(model, None, PROMPT)
    again = trace(model, None, PROMPT, targets=[Likely()])
    assert torch.equal(whole.matrix, again.matrix)


def test_tokens_that_follow_are_explained_after_the_token_before():
    model = random_model("llama")
    graph = trace(model, random_scope(model), PROMPT, targets=Continuation(3))
    follows = []
    for _ in range(3):
        follows.append(model.predict([*PROMPT, *follows], 1)[0].id)
    assert graph.tokens == (*PROMPT, *follows[:2])
    outcomes = graph.nodes.of("logit")
    assert graph.nodes.index[outcomes].tolist() == follows
    assert graph.nodes.position[outcomes].tolist() == [8, 9, 10]
    assert graph.conservation.max() <= 1e-4
    mixed = trace(model, None, PROMPT, targets=[Logit(5), Continuation(2)])
    assert mixed.nodes.position[mixed.nodes.of("logit")].tolist() == [8, 8, 9]  # -1 is the end of what was given


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (Logit(7, position=9), BadInput),
        (Logit(7, position=-10), BadInput),
        (Logit(VOCABULARY), BadInput),
        ([Logit(7), 7], BadInput),
        (Logit(7, 7), BadInput),
        (True, BadInput),
        (Feature("mlp_in.9", 0), NotFound),
        (Feature("mlp_in.1", 128), NotFound),
        (Feature("mlp_in.1", -1), NotFound),
        (Direction(torch.ones(5), "resid_post.1"), BadInput),
        (Direction(torch.full((32,), torch.nan), "resid_post.1"), BadInput),
        (Direction(torch.ones(32), "nowhere.1"), NotFound),
        (Direction(torch.ones(32), "resid_post.3"), NotFound),
        (Direction(torch.ones(32), "mlp_out.1"), Unsupported),
        (Continuation(0), BadInput),
        (Continuation("text"), BadInput),
    ],
)
def test_what_is_no_target_is_refused_by_one_sentence(target, kind):
    model = random_model("gemma3")
    with pytest.raises(kind) as error:
        trace(model, random_scope(model), PROMPT, targets=target)
    assert len(str(error.value).splitlines()) == 1


def test_a_feature_needs_a_scope():
    with pytest.raises(NotFound, match="without a scope"):
        trace(random_model("gemma3"), None, PROMPT, targets=Feature("mlp_in.1", 3))


def test_directions_of_any_precision_are_taken():
    model = random_model("gpt2")
    whole = Direction(torch.arange(model.d_model).double(), "resid_post.1", 3, "counting")
    half = replace(whole, vector=whole.vector.to(torch.bfloat16))
    first, second = (trace(model, None, PROMPT, targets=each) for each in (whole, half))
    assert torch.equal(first.matrix, second.matrix)
    assert first.nodes.labels[-1] == "counting"
