"""What edits of every target and operation do, against plain tensor arithmetic; and under a key-value cache."""

import inspect
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from glassworks.coders import Scope
from glassworks.edits import (
    Direction,
    Edit,
    FeatureRef,
    Features,
    Gate,
    Heads,
    Neurons,
    Reference,
    Whole,
    ablate,
    add_features,
    add_vector,
    clamp,
    patch,
    project_out,
    scale_features,
    set_features,
)
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model, cache_name
from glassworks.models.run import CACHE_NAMES
from glassworks.sites import Site

from .conftest import random_coder, random_model

ALL = ("patterns", "norms", "mlps")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FEATURES = Features(tuple(FeatureRef("mlp_in.1", None, index) for index in (4, 30, 7)))
TARGETS = {
    "features": FEATURES,
    "direction": Direction.of("resid_post.1", torch.arange(24.0) - 9),
    "heads": Heads(((2, 3), (1, 1), (2, 0))),
    "neurons": Neurons(1, (5, 0, 33)),
    "whole": Whole(Site("mlp_out", 1)),
}


def at(model: Model, tokens: Tensor, site: str, *edits: Edit, frozen: tuple = ()) -> Tensor:
    with model.edit(*edits, frozen=frozen):
        return model.capture(tokens, [site])[site]


def coordinates(model: Model, tokens: Tensor, scope: Scope, name: str, *edits: Edit) -> Tensor:
    """A target's coordinates, spelled out: (prompt, token, k)."""
    if name == "features":
        dense = scope["mlp_in.1"].encode(at(model, tokens, "mlp_in.1", *edits)).dense()
        return dense[..., [4, 30, 7]]
    if name == "direction":
        vector = torch.arange(24.0) - 9
        return (at(model, tokens, "resid_post.1", *edits) @ vector / (vector @ vector))[..., None]
    if name == "heads":
        heads = [at(model, tokens, f"attn_heads.{layer}", *edits).unflatten(-1, (4, -1)) for layer in (1, 2)]
        return torch.cat([heads[1][:, :, 3], heads[0][:, :, 1], heads[1][:, :, 0]], -1)
    if name == "neurons":
        return at(model, tokens, "mlp_neurons.1", *edits)[..., [5, 0, 33]]
    return at(model, tokens, "mlp_out.1", *edits)


def reads_what_it_writes(name: str) -> bool:
    """Whether a change of the coordinates is seen by reading them again."""
    return name not in ("features", "heads")  # a coder writes elsewhere; heads of layer 2 read those of layer 1


@pytest.mark.parametrize("name", [each for each in TARGETS if reads_what_it_writes(each)])
def test_every_operation_is_its_formula(model: Model, tokens: Tensor, scope: Scope, name: str) -> None:
    target, old = TARGETS[name], coordinates(model, tokens, scope, name)
    made = Reference(model, [row.tolist() for row in tokens])
    usual = old[:, 1:].flatten(0, 1)
    each = torch.randn(old.shape[-1])
    formulas = {
        set_features(target, each.tolist()): each.expand_as(old),
        add_features(target, each.tolist()): old + each,
        scale_features(target, -0.5): old * -0.5,
        ablate(target): torch.zeros_like(old),
        ablate(target, to="mean", reference=made): usual.mean(0).expand_as(old),
        clamp(target, -0.1, 0.2): old.clamp(-0.1, 0.2),
        clamp(target, high=0.1): old.clamp(max=0.1),
    }
    for edit, new in formulas.items():
        torch.testing.assert_close(coordinates(model, tokens, scope, name, edit), new, **CLOSE)
    drawn = coordinates(model, tokens, scope, name, ablate(target, to="resample", reference=made, seed=3))
    distance = (drawn.flatten(0, 1)[:, None] - usual).norm(dim=-1)
    assert distance.min(1).values.max() < 1e-4
    assert len(distance.argmin(1).unique()) > 3


def test_heads_are_changed_one_by_one(model: Model, tokens: Tensor) -> None:
    before = at(model, tokens, "attn_heads.1").unflatten(-1, (4, -1))
    after = at(model, tokens, "attn_heads.1", set_features(Heads(((1, 3), (1, 0))), list(range(2 * model.d_head))))
    after = after.unflatten(-1, (4, -1))
    numbers = torch.arange(2.0 * model.d_head).expand(3, 9, -1)
    torch.testing.assert_close(torch.cat([after[:, :, 3], after[:, :, 0]], -1), numbers, **CLOSE)
    assert torch.equal(after[:, :, 1:3], before[:, :, 1:3])


def test_ablating_neurons_is_taking_their_rows_out_of_the_down_projection(llama: Model, tokens: Tensor) -> None:
    with_edit = at(llama, tokens, "logits", ablate(Neurons(1, (5, 0, 33))))
    with torch.no_grad():
        llama.hf.model.layers[1].mlp.down_proj.weight[:, [5, 0, 33]] = 0
    torch.testing.assert_close(at(llama, tokens, "logits"), with_edit, **CLOSE)


def test_projecting_out_leaves_nothing_along_the_vector(model: Model, tokens: Tensor) -> None:
    vector, before = torch.randn(24), at(model, tokens, "resid_post.1")
    after = at(model, tokens, "resid_post.1", project_out("resid_post.1", vector, [3]))
    unit = vector / vector.norm()
    torch.testing.assert_close(after[:, 3], before[:, 3] - (before[:, 3] @ unit)[:, None] * unit, **CLOSE)
    after[:, 3] = before[:, 3]
    assert torch.equal(after, before)


@pytest.mark.parametrize("frozen", [(), ALL])
@pytest.mark.parametrize("coder", ["mlp_in.0", "mlp_in.1", "resid_post.1"])
def test_ablating_every_feature_is_subtracting_the_reconstruction(
    model: Model, tokens: Tensor, scope: Scope, coder: str, frozen: tuple
) -> None:
    part = scope[coder]
    write = str(part.writes[0])
    every = Features(tuple(FeatureRef(coder, None, index) for index in range(part.d_latent)))
    clean = at(model, tokens, write)
    rebuilt = part(at(model, tokens, coder)) - part.bias()
    torch.testing.assert_close(at(model, tokens, write, ablate(every, scope), frozen=frozen), clean - rebuilt, **CLOSE)
    dropped = at(model, tokens, write, ablate(every, scope, error="drop"), frozen=frozen)
    torch.testing.assert_close(dropped, part.bias().expand_as(clean), **CLOSE)


def test_a_dropped_error_leaves_the_reconstruction(model: Model, tokens: Tensor, scope: Scope) -> None:
    same = scale_features(FeatureRef("mlp_in.1", None, 4), 1.0, scope, error="drop", where=[2])
    clean, dropped = at(model, tokens, "mlp_out.1"), at(model, tokens, "mlp_out.1", same)
    torch.testing.assert_close(dropped[:, 2], scope["mlp_in.1"](at(model, tokens, "mlp_in.1")[:, 2]), **CLOSE)
    dropped[:, 2] = clean[:, 2]
    assert torch.equal(dropped, clean)


@pytest.mark.parametrize("name", TARGETS)
def test_patching_takes_the_values_of_the_other_run(model: Model, tokens: Tensor, scope: Scope, name: str) -> None:
    edit = patch(TARGETS[name], tokens[1], scope, where=[2, -1], source_where=[5, 0])
    if name == "whole":
        after = at(model, tokens[:1], "mlp_out.1", edit)[0]
        torch.testing.assert_close(after[[2, 8]], at(model, tokens, "mlp_out.1")[1, [5, 0]], **CLOSE)
    source = coordinates(model, tokens, scope, name)[1, [5, 0]]
    for index, position in enumerate((2, 8)):
        alone = set_features(TARGETS[name], source[index].tolist(), scope, where=position)
        one = patch(TARGETS[name], tokens[1], scope, where=position, source_where=[[5, 0][index]])
        first, second = (at(model, tokens[:1], "logits", each) for each in (alone, one))
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_patching_everything_is_the_other_run(model: Model, tokens: Tensor) -> None:
    edit = patch("resid_post.0", tokens[1])
    torch.testing.assert_close(at(model, tokens[0], "logits", edit), at(model, tokens[1], "logits"), **CLOSE)
    other = at(model, tokens[1], "logits")
    with model.edit(add_vector("resid_post.0", torch.ones(24))):  # the other run is that of the model by itself
        torch.testing.assert_close(at(model, tokens[0], "logits", edit), other, **CLOSE)


def test_prompts_of_a_batch_have_their_own_last_token(model: Model, tokens: Tensor) -> None:
    rows, vector = [tokens[0].tolist(), tokens[1, :5].tolist()], torch.randn(24)
    for where in ("last", -1, [-2], "prompt"):
        edit = add_vector("resid_post.0", vector, where)
        with model.edit(edit):
            batch = model.capture(rows, ["logits"])["logits"]
        for row, ids in enumerate(rows):
            alone = at(model, torch.tensor(ids), "logits", edit)
            torch.testing.assert_close(batch[row, : len(ids)], alone, **CLOSE)


def test_a_gate_lets_through_where_its_feature_is_active(model: Model, tokens: Tensor, scope: Scope) -> None:
    dense = scope["mlp_in.0"].encode(at(model, tokens, "mlp_in.0")).dense()
    shares = (dense > 0.05).float().mean((0, 1))
    index = int((shares - 0.5).abs().argmin())
    gate, vector = FeatureRef("mlp_in.0", None, index), torch.randn(24)
    edit = add_vector("resid_post.1", vector, Gate(gate, 0.05), scope=scope)
    change = at(model, tokens, "resid_post.1", edit) - at(model, tokens, "resid_post.1")
    active = dense[..., index] > 0.05
    torch.testing.assert_close(change, active[..., None] * vector, **CLOSE)
    once = add_vector("resid_post.1", vector, Gate(FeatureRef("mlp_in.0", 3, index), 0.05, "last"), scope=scope)
    change = at(model, tokens, "resid_post.1", once) - at(model, tokens, "resid_post.1")
    torch.testing.assert_close(change[:, -1], active[:, 3, None] * vector, **CLOSE)
    assert not change[:, :-1].any()
    late = add_vector("resid_post.0", vector, Gate(FeatureRef("mlp_in.2", None, index)), scope=scope)
    with pytest.raises(BadInput, match=r"read at mlp_in.2, which comes after resid_post.0"):
        at(model, tokens, "logits", late)


def test_an_effect_of_its_own_is_that_of_the_frozen_model(model: Model, tokens: Tensor, scope: Scope) -> None:
    for effect, frozen in (("attention", ALL[:1]), ("attention+norms", ALL[:2]), ("direct", ALL), ("total", ())):
        own = ablate(FEATURES, scope, effect=effect)
        told = at(model, tokens, "logits", ablate(FEATURES, scope), frozen=frozen)
        assert torch.equal(at(model, tokens, "logits", own), told)


@pytest.mark.parametrize("name", [each for each in TARGETS if each != "features"])
def test_direct_effects_add_up(model: Model, tokens: Tensor, name: str) -> None:
    clean = at(model, tokens, "resid_post.2")
    edits = [scale_features(TARGETS[name], 0.5, effect="direct"), add_vector("mlp_out.0", torch.randn(24))]
    first, second = (at(model, tokens, "resid_post.2", each, frozen=ALL) - clean for each in edits)
    both = at(model, tokens, "resid_post.2", *edits[::-1]) - clean
    torch.testing.assert_close(both, first + second, rtol=1e-4, atol=1e-4)


OPEN = Gate(FeatureRef("mlp_in.0", None, 6), 0.1)
WHERES = ["all", "prompt", "generated", "last", (0, -2), OPEN, Gate(FeatureRef("mlp_in.0", 1, 6), -1.0, "generated")]


def edits_everywhere(model: Model, tokens: Tensor, scope: Scope, where: Any) -> list[Edit]:
    """One edit of every kind, all at this place."""
    made = Reference(model, [row.tolist() for row in tokens])
    edits = [ablate(target, scope, "resample", where=where, reference=made) for target in TARGETS.values()]
    edits += [add_vector("resid_post.0", 30 * torch.randn(24), where, scope=scope), clamp("k.1", -0.2, 0.2, where=where,
              scope=scope), scale_features("v.2", -1, scope, where=where), ablate("pattern.2", scope, where=where),
              set_features(FEATURES, [20.0, 30.0, 40.0], scope, where=where),
              set_features("mlp_in.2/9@3", 4.0, scope, where=where)]  # fmt: skip
    return edits if where == "generated" or isinstance(where, Gate) else [*edits, patch("q.1", tokens[1], where=where)]


def generated(model: Model, prompt: Tensor, edits: list[Edit], stepwise: bool) -> tuple[str, Tensor]:
    """What is generated, and the logits from which each token was chosen; with or without a cache."""
    steps: list[Tensor] = []
    keep = {Site("logits"): lambda value: steps.append(value[0, -1])}
    with model.edit(*edits), model.taps.added(keep, stepwise):
        return model.generate(prompt, 4), torch.stack(steps)


WHERE_NAMES = ["all", "prompt", "generated", "last", "indices", "gate", "gate of a token"]


@pytest.mark.parametrize("where", WHERES, ids=WHERE_NAMES)
def test_generation_with_a_cache_equals_generation_without(
    model: Model, tokens: Tensor, scope: Scope, where: Any
) -> None:
    edits = edits_everywhere(model, tokens, scope, where)
    _, clean = generated(model, tokens[0], [], True)
    for stack in (edits[:4], edits[4:7], edits[7:]):
        (slow, right), (fast, found) = (generated(model, tokens[0], stack, stepwise) for stepwise in (False, True))
        assert fast == slow, [str(each) for each in stack]
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
        assert (found - clean).abs().max() > 1e-3
        with model.edit(*stack):
            assert transformers_text(model, tokens[:1]) == [slow]


@pytest.mark.slow
@pytest.mark.parametrize("where", WHERES, ids=WHERE_NAMES)
def test_every_way_to_generate_is_edited_alike(model: Model, tokens: Tensor, scope: Scope, where: Any) -> None:
    edits = edits_everywhere(model, tokens, scope, where)
    for stack in (edits[:4], edits[4:7], edits[7:]):
        right, _ = generated(model, tokens[0], stack, False)
        for settings in ({"use_cache": False}, {"prefill_chunk_size": 4}, {"prompt_lookup_num_tokens": 2}):
            with model.edit(*stack):
                assert transformers_text(model, tokens[:1], **settings) == [right], settings


def transformers_text(model: Model, tokens: Tensor, pads: Sequence[int] = (0,), **settings: Any) -> list[str]:
    """What transformers' own `generate` adds to rows, each with some padding on the left."""
    mask = torch.arange(tokens.shape[1])[None] >= torch.tensor(pads)[:, None]
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, **settings}
    out = model.hf.generate(tokens, attention_mask=mask.long(), **settings)
    return [" ".join(f"#{token}" for token in row) for row in out[:, tokens.shape[1] :].tolist()]


@pytest.mark.parametrize("where", WHERES, ids=WHERE_NAMES)
@pytest.mark.parametrize("settings", [
    {}, *(pytest.param(each, marks=pytest.mark.slow) for each in ({"use_cache": False}, {"prefill_chunk_size": 3})),
], ids=str)  # fmt: skip
def test_padding_on_the_left_moves_no_token(
    model: Model, tokens: Tensor, scope: Scope, where: Any, settings: dict[str, Any]
) -> None:
    padded = tokens[:2].clone()
    padded[1, :2] = 0
    stack = edits_everywhere(model, tokens, scope, where)[:9]
    keep = {"output_logits": True, "return_dict_in_generate": True, "max_new_tokens": 4, "do_sample": False}

    def logits(rows: Tensor, pads: Sequence[int]) -> Tensor:
        mask = (torch.arange(rows.shape[1])[None] >= torch.tensor(pads)[:, None]).long()
        out = model.hf.generate(rows, attention_mask=mask, pad_token_id=0, **keep, **settings)
        return torch.stack(out.logits, dim=1)

    with model.edit(*stack):
        alone = torch.cat([logits(tokens[:1], [0]), logits(tokens[1:2, 2:], [0])])
        torch.testing.assert_close(logits(padded, [0, 2]), alone, rtol=1e-3, atol=1e-4)
    assert (logits(padded, [0, 2]) - alone).abs().max() > 1e-3


def test_rows_padded_on_either_side_are_edited_at_the_same_tokens(llama: Model, tokens: Tensor) -> None:
    left, right = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)
    left[0], right[0], left[1, 4:], right[1, :5] = tokens[0], tokens[0], tokens[1, :5], tokens[1, :5]
    place = torch.cat([torch.arange(9)[None], (torch.arange(9)[None] - 4).clamp(min=0)])
    for where in (0, -1, (1, -2), "last", "prompt", "all"):
        with llama.edit(add_vector("resid_post.0", 5 * torch.ones(24), where)), torch.no_grad():
            alone = llama.hf(tokens[1:2, :5]).logits[0]
            a = llama.hf(left, attention_mask=(torch.arange(9) >= torch.tensor([[0], [4]])).long(), position_ids=place)
            b = llama.hf(right, attention_mask=(torch.arange(9) < torch.tensor([[9], [5]])).long())
        torch.testing.assert_close(a.logits[1, 4:], alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(b.logits[1, :5], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("where", WHERES[:5], ids=WHERE_NAMES[:5])
def test_beams_are_edited_as_without_a_cache(model: Model, tokens: Tensor, scope: Scope, where: Any) -> None:
    with model.edit(*edits_everywhere(model, tokens, scope, where)[4:7]):
        slow, fast = (
            transformers_text(model, tokens[:2], (0, 0), num_beams=3, num_return_sequences=2, use_cache=cached)
            for cached in (False, True)
        )
    assert fast == slow


def test_masks_of_any_form_hide_no_padding(tokens: Tensor) -> None:
    model, where = random_model("gemma3"), 0
    rows = tokens[:2].clone()
    rows[1, :3] = 0
    static = {"cache_implementation": "static", "disable_compile": True}
    with model.edit(add_vector("resid_post.1", 9 * torch.ones(24), where)):
        right = [transformers_text(model, row)[0] for row in (rows[:1], rows[1:, 3:])]
        assert transformers_text(model, rows, (0, 3), **static) == right  # a dictionary of masks with four axes
        out = model.hf.generate(rows, max_new_tokens=4, do_sample=False, pad_token_id=0, **static)  # mask by pads
        assert [" ".join(f"#{token}" for token in row) for row in out[:, 9:].tolist()] == right
        with pytest.raises(BadInput, match="more than two axes"), torch.no_grad():
            model.hf(rows, attention_mask=torch.zeros(2, 1, 9, 9))


def test_another_text_within_generation_has_its_own_prompt(llama: Model, tokens: Tensor) -> None:
    found: list[Tensor] = []

    def other(_: Tensor, scores: Tensor) -> Tensor:
        found.extend(llama.hf(ids, use_cache=False).logits for ids in (tokens[1:2, :5], tokens[1:3, :5]))
        return scores

    with llama.edit(add_vector("resid_post.1", 9 * torch.ones(24), "last")), torch.no_grad():
        right = [llama.hf(ids, use_cache=False).logits for ids in (tokens[1:2, :5], tokens[1:3, :5])] * 2
        transformers_text(llama, tokens[:1], max_new_tokens=2, logits_processor=[other])
    for one, two in zip(found, right, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_a_gate_does_not_follow_beams(llama: Model, tokens: Tensor, scope: Scope) -> None:
    for site, refused in (("resid_post.0", False), ("v.2", True)):
        change = scale_features(site, -1, scope, where=OPEN)
        with llama.edit(change), pytest.raises(Unsupported, match="beams") if refused else nullcontext():
            transformers_text(llama, tokens[:2], (0, 0), num_beams=2)


def test_caches_taken_in_turn_keep_their_prompts(model: Model, tokens: Tensor) -> None:
    def step(ids: Tensor, **named: Any) -> Any:
        out = model.hf(ids, use_cache=True, **named)
        return out.logits[:, -1], out[next(name for name in CACHE_NAMES if name in out)]

    edits = [add_vector("resid_post.0", 9 * torch.randn(24), "generated"), scale_features("v.1", -1, where=(0, -1))]
    rows, lengths, name = (tokens[:1], tokens[1:2]), (6, 4), cache_name(model.hf)
    with model.edit(*edits), torch.no_grad():
        for known in (True, False):  # the model makes the caches, or the caller
            made = [{} if known else {name: DynamicCache(config=model.hf.config)} for _ in rows]
            caches = [step(row[:, :n], **own)[1] for row, n, own in zip(rows, lengths, made, strict=True)]
            for at in range(3):
                for row, length, cache in zip(rows, lengths, caches, strict=True):
                    found, _ = step(row[:, length + at : length + at + 1], **{name: cache})
                    with model.taps.reading([length]):
                        right = model.hf(row[:, : length + at + 1], use_cache=False).logits[:, -1]
                    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("where", WHERES, ids=WHERE_NAMES)
def test_the_cache_counts_under_either_name_and_by_position(
    model: Model, tokens: Tensor, scope: Scope, where: Any
) -> None:
    hf, place = model.hf, list(inspect.signature(model.hf.forward).parameters).index(cache_name(model.hf))
    with model.edit(*edits_everywhere(model, tokens, scope, where)[4:7]), model.taps.reading([7]), torch.no_grad():
        right = hf(tokens[:1], use_cache=False).logits[:, 7:]
        for name in {cache_name(hf), "past_key_values", "by position"}:
            cache = DynamicCache(config=hf.config)
            args, named = ((None,) * (place - 1) + (cache,), {}) if name == "by position" else ((), {name: cache})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # transformers renames the argument
                hf(tokens[:1, :7], *args, use_cache=True, **named)
                found = hf(tokens[:1, 7:], *args, use_cache=True, **named).logits
            torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_what_a_cache_cannot_give_is_refused(llama: Model, tokens: Tensor, scope: Scope) -> None:
    batched = Scope("batch", "random", {"mlp_in.1": random_coder("mlp_in.1", "mlp_out.1", "batch")}, ["mlp_in.1"])
    with llama.edit(ablate(FEATURES, batched)), torch.no_grad():
        assert llama.generate(tokens[0], 2)
        with pytest.raises(Unsupported, match="whole text in every forward"):
            llama.hf.generate(tokens[:1], attention_mask=torch.ones(1, 9).long(), max_new_tokens=2, do_sample=False)
    with llama.edit(ablate("resid_post.0", where=0)), pytest.raises(Unsupported, match="second text beside"):
        transformers_text(llama, tokens[:1], guidance_scale=2.0)
    with llama.edit(ablate("resid_post.0", where=0)), pytest.raises(Unsupported, match="call the language model"):
        llama.hf.model(tokens)
    with llama.edit(ablate("v.0", where=0)), pytest.raises(Unsupported, match="fixed size"):
        transformers_text(llama, tokens[:1], cache_implementation="static", disable_compile=True)
    with llama.edit(ablate("logits", where=0)), torch.no_grad():
        with pytest.raises(Unsupported, match="logits_to_keep as a number"):
            llama.hf(tokens, logits_to_keep=torch.tensor([0, 3]))
        for whole in (True, False):
            with pytest.raises(Unsupported, match="own loss is of unedited logits"):
                llama.hf(tokens, labels=tokens, return_dict=whole)
        assert not llama.hf(tokens, return_dict=False)[0][:, 0].any()
    cache = DynamicCache(config=llama.hf.config)
    with llama.edit(ablate("resid_post.0", where="last")):
        llama.hf(tokens[:1], use_cache=True, **{cache_name(llama.hf): cache})
        cache.crop(-5)
        with pytest.raises(BadInput, match="cache held before"):
            llama.hf(tokens[1:2, :3], use_cache=True, **{cache_name(llama.hf): cache})
    gate = Gate(FeatureRef("mlp_in.0", 1, 6), -1.0)
    gated = llama.edit(add_vector("resid_post.0", torch.randn(24), gate, scope=scope))
    late = llama.edit(ablate("resid_post.0", where="generated"))
    for edit, message in ((gated, "did not see the tokens of the cache"), (late, "the key-value cache held before")):
        cache = DynamicCache(config=llama.hf.config)
        llama.hf(tokens[:1, :7], use_cache=True, **{cache_name(llama.hf): cache})
        with pytest.raises(BadInput, match=message), torch.no_grad(), edit:
            llama.hf(tokens[:1, 7:], use_cache=True, **{cache_name(llama.hf): cache})


def test_only_edits_that_work_token_by_token_use_the_cache(llama: Model, tokens: Tensor, scope: Scope) -> None:
    lengths: list[int] = []
    llama.hf.model.layers[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    for edit, seen in ((ablate(FEATURES, scope), [9, 1, 1]), (ablate(FEATURES, scope, effect="direct"), [9, 9] * 3)):
        lengths.clear()
        with llama.edit(edit):
            llama.generate(tokens[0], 3)
        assert lengths == seen or lengths == [9, 9, 10, 10, 11, 11]


@pytest.mark.parametrize(("make", "kind", "message"), [
    (lambda scope: add_vector("resid_post.1", torch.zeros(7)), BadInput, "width 7; resid_post.1 of llama has"),
    (lambda scope: ablate(Heads(((1, 4),))), NotFound, "no head 4 in layer 1; there are 0 to 3"),
    (lambda scope: ablate(Heads(((3, 0),))), NotFound, "layers 0 to 2"),
    (lambda scope: ablate(Neurons(0, (40,))), NotFound, "no neuron 40 in layer 0; there are 0 to 39"),
    (lambda scope: ablate("resid_post.9"), NotFound, "layers 0 to 2"),
    (lambda scope: add_vector("resid_post.1", torch.ones(24), 9), BadInput, "position 9; the prompt has 9 tokens"),
    (lambda scope: set_features("resid_post.1", [1.0, 2.0]), BadInput, "24 coordinates and 2 amounts"),
    (lambda scope: patch("resid_post.1", [1, 2]), BadInput, "takes 2 tokens of its source for 9"),
    (lambda scope: patch("resid_post.1", [1, 2], where=5), BadInput, "position 5; the prompt has 2 tokens"),
    (lambda scope: patch("resid_post.1", [1, 2], where="generated"), BadInput, "tokens of the prompt"),
])  # fmt: skip
def test_what_does_not_fit_the_model_is_refused_and_leaves_it_as_it_was(
    llama: Model, tokens: Tensor, scope: Scope, make: Any, kind: type[Exception], message: str
) -> None:
    clean = at(llama, tokens, "logits")
    with pytest.raises(kind, match=message):
        at(llama, tokens, "logits", make(scope))
    assert torch.equal(at(llama, tokens, "logits"), clean)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in llama.hf.modules())


@pytest.mark.parametrize(("make", "kind", "message"), [
    (lambda s: ablate(FEATURES, s, "nothing"), BadInput, "zero, mean, resample; got 'nothing'"),
    (lambda s: ablate(FEATURES, s, "mean"), BadInput, "measured on texts"),
    (lambda s: ablate(FEATURES, s, where="first"), BadInput, "got 'first'"),
    (lambda s: ablate(FEATURES, s, where=[]), BadInput, "acts at"),
    (lambda s: ablate(FEATURES, s, effect="indirect"), BadInput, "no effect 'indirect'"),
    (lambda s: ablate(FEATURES, s, error="lose"), BadInput, "no error 'lose'"),
    (lambda s: ablate(Heads(()), s), BadInput, "no heads"),
    (lambda s: ablate(Heads(((0, 1), (0, 1)))), BadInput, "named twice"),
    (lambda s: ablate(Neurons(0, (-1,))), BadInput, "numbers from 0 on"),
    (lambda s: ablate(Neurons(0, (1,)), error="drop"), BadInput, "no feature"),
    (lambda s: clamp(FEATURES, 2, 1, s), BadInput, "lowest before highest"),
    (lambda s: set_features(FEATURES, float("nan"), s), BadInput, "no numbers"),
    (lambda s: set_features(FEATURES, float("inf"), s), BadInput, "infinite"),
    (lambda s: set_features(FEATURES, 1, s, unit="metre"), BadInput, "no unit 'metre'"),
    (lambda s: set_features(FEATURES, 1, s, unit="max"), NotFound, "no evidence on mlp_in.1"),
    (lambda s: set_features(FEATURES, 1, s, unit="norm"), BadInput, "measured on texts"),
    (lambda s: set_features(Neurons(0, (1,)), 1, s, unit="max"), BadInput, "unit max does not work on neuron 1"),
    (lambda s: project_out("resid_post.1", torch.zeros(24)), BadInput, "no component along it"),
    (lambda s: add_vector("resid_post.1", torch.full((24,), torch.nan)), BadInput, "norm nan"),
    (lambda s: add_vector("mlp_out.1", torch.ones(24), Gate(FeatureRef("mlp_in.1", None, 3))), BadInput, "the scope"),
    (lambda s: ablate(3), BadInput, "changes features"),
])  # fmt: skip
def test_what_makes_no_edit_is_refused(scope: Scope, make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make(scope)


def test_units_are_measured_and_kept(model: Model, tokens: Tensor, scope: Scope) -> None:
    made = Reference(model, [row.tolist() for row in tokens])
    norms = at(model, tokens, "resid_post.1").norm(dim=-1)[:, 1:]
    steer = add_vector("resid_post.1", torch.randn(24), by=0.5, unit="norm", reference=made)
    change = at(model, tokens, "resid_post.1", steer) - at(model, tokens, "resid_post.1")
    torch.testing.assert_close(change.norm(dim=-1), (norms.mean() / 2).expand(3, 9), **CLOSE)
    feature = add_features("mlp_in.1/4", 0.5, scope, unit="norm", reference=made)
    change = at(model, tokens, "mlp_out.1", feature) - at(model, tokens, "mlp_out.1")
    torch.testing.assert_close(change.norm(dim=-1), (norms.mean() / 2).expand(3, 9), **CLOSE)
    assert str(steer).startswith("add 0.5 x norm to the component along")


def test_part_of_a_sum_cannot_drop_its_error(scope: Scope) -> None:
    from glassworks.coders import Crosscoder, CrossLayer, ReLU

    parts = []
    for layer in (0, 1):
        writes = [Site("mlp_out", each) for each in range(layer, 2)]
        weights = {"w_enc": torch.randn(5, 24), "b_enc": torch.zeros(5)}
        weights |= {f"w_dec.{site}": torch.randn(5, 24) for site in writes}
        parts.append(Crosscoder([Site("mlp_in", layer)], writes, ReLU(), weights))
    scope.coders["clt"] = CrossLayer(parts)
    for feature in ("clt/mlp_in.0/3", "clt/mlp_in.1/3"):
        ablate(feature, scope)
        with pytest.raises(Unsupported, match="its error can only be kept"):
            ablate(feature, scope, error="drop")
