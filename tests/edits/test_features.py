"""Feature edits do exactly what they say: at the written site, and downstream in the frozen model."""

from collections.abc import Sequence
from typing import Any, final

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.coders import Coder, Latents, ReLU, Scope
from glassworks.edits import FeatureRef, ablate, add_vector, scale_features, set_features
from glassworks.errors import BadInput, NotFound
from glassworks.models import Edit, Model
from glassworks.sites import Site

ALL = ("patterns", "norms", "mlps")
MODES = [(), ("patterns",), ("patterns", "norms"), ALL, ("mlps",)]


def run(
    model: Model, tokens: Tensor, site: str = "logits", edits: Sequence[Edit] = (), frozen: Sequence[str] = ()
) -> Any:
    with model.edit(*edits, frozen=frozen):
        return model.capture(tokens, [site])[site]


@pytest.mark.parametrize("frozen", MODES)
def test_ablation_takes_exactly_the_decoder_row_away(model: Model, tokens: Tensor, active: Any, frozen: tuple) -> None:
    ref, value = active.features[0], active.values[0]
    change = run(model, tokens[:1], "mlp_out.0", [ablate(ref, active.scope)], frozen) - run(
        model, tokens[:1], "mlp_out.0"
    )
    row = active.scope["mlp_in.0"].decoder_rows(torch.tensor([ref.index]))[0]
    torch.testing.assert_close(change[0, 2], -value * row, rtol=1e-5, atol=1e-5)
    change[0, 2] = 0
    assert not change.any()


@pytest.mark.parametrize("frozen", MODES)
def test_setting_what_is_there_changes_nothing(model: Model, tokens: Tensor, active: Any, frozen: tuple) -> None:
    clean = run(model, tokens[:1])
    for edit in (set_features(active, active.values), scale_features(active, 1.0)):
        torch.testing.assert_close(run(model, tokens[:1], edits=[edit], frozen=frozen), clean, rtol=1e-5, atol=2e-5)


def test_a_set_feature_has_its_value(model: Model, tokens: Tensor, scope: Scope) -> None:
    sae, before = scope["resid_post.1"], model.capture(tokens, ["resid_post.1"])["resid_post.1"]
    after = run(model, tokens, "resid_post.1", [set_features(FeatureRef("resid_post.1", -1, 7), 3.0, scope)])
    old = sae.encode(before).dense()[:, -1, 7]
    row = sae.decoder_rows(torch.tensor([7]))
    torch.testing.assert_close(after[:, -1] - before[:, -1], (3.0 - old)[:, None] * row, rtol=1e-5, atol=1e-5)
    assert torch.equal(after[:, :-1], before[:, :-1])


def test_a_position_of_none_is_every_position(model: Model, tokens: Tensor, scope: Scope) -> None:
    refs = [FeatureRef("mlp_in.1", position, 4) for position in range(9)]
    one_by_one = run(model, tokens, edits=[set_features(refs, 2.0, scope)])
    together = run(model, tokens, edits=[set_features(FeatureRef("mlp_in.1", None, 4), 2.0, scope)])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=0)


def test_rows_of_a_batch_are_edited_alone(model: Model, tokens: Tensor, active: Any) -> None:
    edit = set_features(active, [3.0, 0.5])
    for frozen in ((), ALL):
        batch = run(model, tokens, edits=[edit], frozen=frozen)
        for row, ids in enumerate(tokens):
            torch.testing.assert_close(batch[row], run(model, ids, edits=[edit], frozen=frozen), rtol=1e-5, atol=1e-5)


def effect(model: Model, tokens: Tensor, edits: Sequence[Edit]) -> Tensor:
    """What edits change the frozen model's last stream and logits by, side by side."""
    sites = ("resid_post.2", "logits")
    return torch.cat([run(model, tokens, site, edits, ALL) - run(model, tokens, site) for site in sites], dim=-1)


@pytest.mark.slow
def test_the_frozen_model_is_linear_in_its_edits(model: Model, tokens: Tensor, active: Any) -> None:
    def raised(by: float) -> list[Edit]:
        pairs = zip(active.features, active.values, strict=True)
        return [set_features(ref, value + by, active.scope) for ref, value in pairs]

    first, second = (effect(model, tokens[:1], [edit]) for edit in raised(1.0))
    assert first.abs().max() > 0.05
    torch.testing.assert_close(effect(model, tokens[:1], raised(1.0)), first + second, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(effect(model, tokens[:1], raised(2.0)[:1]), 2 * first, rtol=1e-4, atol=1e-4)


def test_nested_frozen_edits_add_up(model: Model, tokens: Tensor) -> None:
    edits = [add_vector("mlp_out.0", torch.randn(24), 2), add_vector("attn_out.1", torch.randn(24))]
    together = run(model, tokens, edits=edits, frozen=ALL)
    with model.edit(edits[0], frozen=ALL):
        nested = run(model, tokens, edits=edits[1:], frozen=ALL)
    torch.testing.assert_close(nested, together, rtol=1e-5, atol=1e-5)


def test_live_effects_differ_from_frozen_ones(model: Model, tokens: Tensor, active: Any) -> None:
    edit = ablate(active)
    results = [run(model, tokens[:1], edits=[edit], frozen=frozen) for frozen in MODES]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(results) for b in results[:i])


def test_edits_of_one_call_and_nested_ones_agree(model: Model, tokens: Tensor, active: Any) -> None:
    edits = [ablate(active.features[0], active.scope), add_vector("resid_mid.2" if not model.parallel else "attn_out.2",
                                                                  torch.ones(24), 3)]  # fmt: skip
    together = run(model, tokens, edits=edits)
    with model.edit(edits[0]):
        assert torch.equal(run(model, tokens, edits=edits[1:]), together)
    with model.edit(edits[1]):
        assert torch.equal(run(model, tokens, edits=edits[:1]), together)


def test_everything_is_back_after_an_edit_and_after_an_error(llama: Model, tokens: Tensor, scope: Scope) -> None:
    clean, edit = run(llama, tokens), set_features(FeatureRef("mlp_in.1", 8, 3), 9.0, scope)
    run(llama, tokens, edits=[edit], frozen=ALL)
    with pytest.raises(BadInput, match="position 8; the prompt has 4 tokens"), llama.edit(edit, frozen=["norms"]):
        llama.capture(tokens[:, :4], ["logits"])
    with pytest.raises(KeyError), llama.edit(edit):
        raise KeyError
    assert torch.equal(run(llama, tokens), clean)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in llama.hf.modules())


def test_generation_is_edited_too(llama: Model, tokens: Tensor) -> None:
    push = torch.zeros(61)
    push[13] = 1e4
    for frozen in ((), ALL):
        with llama.edit(add_vector("logits", push), frozen=frozen):
            assert llama.generate(tokens[0], 3) == "#13 #13 #13"


def test_half_precision_models_get_changes_rounded_once(llama: Model, tokens: Tensor, scope: Scope) -> None:
    llama.hf.to(torch.bfloat16)
    before = run(llama, tokens, "mlp_out.0")
    refs = [FeatureRef("mlp_in.0", 4, index) for index in range(20)]
    after = run(llama, tokens, "mlp_out.0", [set_features(refs, 1 / 3, scope)])
    coder = scope["mlp_in.0"]
    old = coder.encode(run(llama, tokens, "mlp_in.0")[:, [4]]).dense()[:, 0, :20]
    exact = before[:, 4].float() + (1 / 3 - old) @ coder.decoder_rows(torch.arange(20))
    assert after.dtype == torch.bfloat16
    assert torch.equal(after[:, 4], exact.to(torch.bfloat16))


@final
class TwoWrites(Coder):
    """A cross-layer transcoder in miniature: reads layer 0, writes layers 0 and 1."""

    def __init__(self, inner: Coder) -> None:
        super().__init__(inner.reads, [Site("mlp_out", 0), Site("mlp_out", 1)], inner.d_latent, ReLU())
        self.inner = inner

    def preactivations(self, x: Float[Tensor, "*token d"]) -> Float[Tensor, "*token f"]:
        return self.inner.preactivations(x)

    def decode(self, latents: Latents, write: Site | None = None) -> Float[Tensor, "*token d"]:
        return self.inner.decode(latents)

    def encoder_rows(self, indices: Int[Tensor, " k"]) -> Float[Tensor, "k d"]:
        return self.inner.encoder_rows(indices)

    def encoder_bias(self, indices: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
        return self.inner.encoder_bias(indices)

    def decoder_rows(self, indices: Int[Tensor, " k"], write: Site | None = None) -> Float[Tensor, "k d"]:
        return self.inner.decoder_rows(indices) * (-2 if write == Site("mlp_out", 1) else 1)

    def bias(self, write: Site | None = None) -> Float[Tensor, " d"]:
        return self.inner.bias()

    def skip(self, write: Site | None = None) -> None:
        return None


def test_a_feature_is_changed_at_every_write_site(llama: Model, tokens: Tensor, scope: Scope) -> None:
    scope.coders["mlp_in.0"] = TwoWrites(scope["mlp_in.0"])
    edit = scale_features([FeatureRef("mlp_in.0", 3, index) for index in range(50)], 2.0, scope)
    with llama.edit(edit, frozen=ALL):
        after = llama.capture(tokens, ["mlp_out.0", "mlp_out.1"])
    before = llama.capture(tokens, ["mlp_out.0", "mlp_out.1"])
    first, second = (after[site] - before[site] for site in after)
    assert first.abs().max() > 0.1
    torch.testing.assert_close(second, -2 * first, rtol=1e-4, atol=1e-5)


def test_edits_say_what_they_do(active: Any) -> None:
    first, second = active.features
    assert str(ablate(active)) == f"ablate 2 features ({first}, {second})"
    assert str(set_features(active, [1, 2.5])) == f"set 2 features ({first}, {second}) to 1, 2.5"
    assert repr(scale_features(first, 3, active.scope)) == f"Edit(scale 1 feature ({first}) by 3)"
    assert str(FeatureRef("mlp_in.2", 4, 17)) == "mlp_in.2/17@4"
    assert (
        str(add_vector("resid_post.1", torch.tensor([3.0, 4.0])))
        == "add 1 to the component along a vector of norm 5 at resid_post.1"
    )


REF = FeatureRef("mlp_in.1", 0, 3)


@pytest.mark.parametrize(("make", "kind", "message"), [
    (lambda scope: ablate([], scope), BadInput, "no features"),
    (lambda scope: ablate([REF, REF], scope), BadInput, "mlp_in.1/3@0 is named twice"),
    (lambda _: ablate(REF), BadInput, "pass the scope"),
    (lambda scope: set_features([REF], [1.0, 2.0], scope), BadInput, "takes 1 amounts, and 2 values were given"),
    (lambda scope: ablate(FeatureRef("mlp_in.1", 0, 50), scope), NotFound, "the coder mlp_in.1 has 0 to 49"),
    (lambda scope: ablate(FeatureRef("mlp_in.7", 0, 5), scope), NotFound, "no coder 'mlp_in.7'"),
    (lambda _: add_vector("resid.1", torch.zeros(24)), NotFound, "no site kind"),
    (lambda _: add_vector("resid_post.1", torch.zeros(24), [1, 1]), BadInput, "named twice"),
])  # fmt: skip
def test_wrong_edits_are_refused(scope: Scope, make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make(scope)


def test_vectors_are_added_where_they_belong(llama: Model, tokens: Tensor) -> None:
    clean, vector = run(llama, tokens, "resid_post.1"), torch.randn(24)
    changed = run(llama, tokens, "resid_post.1", [add_vector("resid_post.1", vector, [0, -2])])
    torch.testing.assert_close(changed[:, [0, 7]], clean[:, [0, 7]] + vector, rtol=0, atol=0)
    assert torch.equal(changed[:, [1, 2, 3, 4, 5, 6, 8]], clean[:, [1, 2, 3, 4, 5, 6, 8]])
    with pytest.raises(BadInput, match="has the width 7; resid_post"):
        run(llama, tokens, edits=[add_vector("resid_post.1", torch.zeros(7))])
    with pytest.raises(NotFound, match="layers 0 to 2"):
        run(llama, tokens, edits=[add_vector("resid_post.5", vector)])
