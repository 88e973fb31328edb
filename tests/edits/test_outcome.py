"""Outcomes and contrasts: what they say is what the model does."""

import pytest
import torch

from glassworks.edits import (
    FeatureRef,
    Gate,
    Pair,
    ablate,
    add_features,
    add_vector,
    agreement,
    approximate,
    cells,
    clamp,
    contrast,
    divergence,
    doses,
    doses_page,
    edges,
    off_target,
    outcome,
    outcome_page,
    patch,
    set_features,
    sweep,
    sweeps_page,
)
from glassworks.edits.outcome import everywhere
from glassworks.errors import BadInput

PROMPT, OTHER = [3, 17, 5, 40, 8, 22, 9], [3, 17, 6, 40, 8, 23, 9]
TEXTS = [[3, 4, 5, 6], [7, 8], [9, 10, 11, 12, 13]]


@pytest.fixture
def push() -> torch.Tensor:
    return torch.randn(24, generator=torch.Generator().manual_seed(2)) * 3


def test_an_outcome_is_what_both_runs_say(model, push):
    edit = add_vector("resid_post.1", push, where=[-1, 2])
    found = outcome(model, PROMPT, [edit], new_tokens=4, k=3)
    clean = model.capture(PROMPT, ["logits"])["logits"].double()
    with model.edit(edit):
        edited, text = model.capture(PROMPT, ["logits"])["logits"].double(), model.generate(PROMPT, 4)
    assert found.edited_text == text
    assert found.clean_text == model.generate(PROMPT, 4)
    assert found.top().id == int(edited[-1].argmax())
    assert found.top(edited=False).id == int(clean[-1].argmax())
    for each in found.choices:
        assert each.clean == pytest.approx(float(clean[-1].softmax(0)[each.id]), abs=1e-9)
        assert each.logit == pytest.approx(float(edited[-1, each.id] - clean[-1, each.id]), abs=1e-9)
    expected = torch.nn.functional.kl_div(
        edited.log_softmax(1), clean.log_softmax(1), log_target=True, reduction="none"
    )
    assert found.kl == pytest.approx(expected.sum(1).tolist(), abs=1e-9)
    assert found.kl[:2] == pytest.approx([0, 0], abs=1e-9)  # nothing before the first changed token
    assert found.off_target is None
    assert found.plain()["edits"] == (str(edit),)


def test_off_target_is_the_mean_over_all_predictions_of_other_text(model, push):
    edit = add_vector("resid_post.1", push, where="all")
    found = off_target(model, [edit], [*TEXTS, [5]])
    sums = torch.zeros(3, dtype=torch.float64)
    for ids in TEXTS:
        clean = model.capture(ids, ["logits"])["logits"][:-1].double()
        with model.edit(edit):
            edited = model.capture(ids, ["logits"])["logits"][:-1].double()
        losses = [
            torch.nn.functional.cross_entropy(each, torch.tensor(ids[1:])) * len(clean) for each in (clean, edited)
        ]
        sums += torch.stack([divergence(clean, edited).sum(), *losses])
    assert (found.texts, found.tokens) == (3, 8)
    assert [found.kl, found.clean_loss, found.edited_loss] == pytest.approx((sums / 8).tolist(), rel=1e-4)


def test_no_change_has_no_divergence_even_where_a_token_is_ruled_out():
    logits = torch.tensor([[1.0, -torch.inf, 2.0]])
    assert divergence(logits, logits).tolist() == [0.0]
    assert float(divergence(logits, logits.roll(1, 1))) == float("inf")


def test_an_edit_goes_everywhere(scope):
    refs = [FeatureRef("mlp_in.0", 2, 5), FeatureRef("mlp_in.0", 3, 5), FeatureRef("mlp_in.1", -1, 7)]
    wide = everywhere(set_features(refs, [1.0, 2.0, 3.0], scope, where="prompt"))
    assert wide == set_features([FeatureRef("mlp_in.0", None, 5), FeatureRef("mlp_in.1", None, 7)], [1.0, 3.0], scope)
    assert everywhere(clamp(refs[:2], 0, 1, scope)) == clamp(FeatureRef("mlp_in.0", None, 5), 0, 1, scope)
    gate = Gate(FeatureRef("mlp_in.2", 1, 3), 0.5, "last")
    gated = everywhere(ablate(refs[2], scope, where=gate))
    assert gated == ablate(FeatureRef("mlp_in.1", None, 7), scope, where=Gate(FeatureRef("mlp_in.2", None, 3), 0.5))
    assert everywhere(patch("resid_post.1", PROMPT)) is None


def test_doses_follow_the_amount(model, push):
    found = doses(
        model, PROMPT, lambda by: [add_vector("resid_post.1", push, by=by)], [0, 1, 2], new_tokens=2, reference=TEXTS
    )
    assert [each.amount for each in found] == [0, 1, 2]
    assert found[0].kl == pytest.approx(0, abs=1e-9)
    assert found[0].off_target == pytest.approx(0, abs=1e-9)
    assert 0 < found[1].off_target < found[2].off_target
    watched = list(found[2].probabilities)
    assert found[2].probabilities[watched[-1]] == max(found[2].probabilities.values())
    assert "<svg" in doses_page("#3", "add", found)


@torch.no_grad()
def test_a_contrast_leads_from_one_prompt_to_the_other(model, scope):
    """All features that differ, set to what they are on the other prompt: the coders' parts of the MLPs follow."""
    found = contrast(model, scope, [OTHER], [PROMPT], most=50)
    assert {ref.position for ref in found.refs} == {-5, -4, -3, -2, -1}  # nothing differs before the first other token
    for name in scope.replacement:
        coder = scope[name]
        here, there = (coder.encode(model.capture(ids, [name])[name]).dense() for ids in (PROMPT, OTHER))
        for ref, one, other in zip(found.refs, found.like, found.unlike, strict=True):
            if ref.coder_id == name:
                assert (one, other) == pytest.approx(
                    (float(there[ref.position, ref.index]), float(here[ref.position, ref.index]))
                )
    edit = add_features(found.refs, found.change, scope)
    name = scope.replacement[0]
    expected = scope[name].decode(scope[name].encode(model.capture(OTHER, [name])[name]), scope[name].writes[0])
    before = scope[name].decode(scope[name].encode(model.capture(PROMPT, [name])[name]), scope[name].writes[0])
    clean = model.capture(PROMPT, ["mlp_out.0"])["mlp_out.0"]
    with model.edit(edit):
        edited = model.capture(PROMPT, ["mlp_out.0"])["mlp_out.0"]
    torch.testing.assert_close(edited - clean, expected - before, atol=1e-4, rtol=1e-4)
    assert set(found.rising) <= set(found.refs)


def test_prompts_of_different_lengths_are_compared_at_their_ends(model, scope):
    assert {ref.position for ref in contrast(model, scope, [OTHER, TEXTS[0]], [PROMPT]).refs} == {-1}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda m, s: outcome(m, PROMPT, []), "no edits"),
        (lambda m, s: outcome(m, PROMPT, [add_vector("resid_post.1", [1.0] * 24, where=[9])]), "position 9"),
        (lambda m, s: off_target(m, [], [[5]]), "two tokens"),
        (lambda m, s: doses(m, PROMPT, lambda by: [], []), "no amounts"),
        (lambda m, s: contrast(m, s, [], [PROMPT]), "of either kind"),
        (lambda m, s: contrast(m, s, [PROMPT], [PROMPT]), "nothing to change"),
        (lambda m, s: contrast(m, s, [PROMPT], [OTHER], last=8), "has 7"),
    ],
)
def test_wrong_input_is_told(llama, scope, wrong, said):
    with pytest.raises(BadInput, match=said):
        wrong(llama, scope)


def test_pages_are_whole_and_escape_what_they_show(llama, push):
    found = outcome(llama, PROMPT, [add_vector("resid_post.1", push)], reference=TEXTS)
    page = outcome_page(found)
    assert page.startswith("<!doctype html>")
    assert "On other text" in page
    assert "http" not in page
    pair = Pair.of(llama, PROMPT, OTHER, "#7 - #11")
    exact = sweep(pair, cells(llama, "resid_post", 7))
    estimate = approximate(pair, exact.cells)
    page = sweeps_page(
        [exact, estimate], {"attribution": agreement(exact.shares, estimate.shares)}, edges(pair, steps=1)
    )
    assert page.count("<table") == 4
    assert "#5/#6" in page
