"""Replacing values while a model runs, freezing parts of it, and leaving no trace."""

import copy
import re
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model, cache_name
from glassworks.sites import Site

Build = Callable[[str], Any]
FROZEN = ("patterns", "norms", "mlps")


def logits(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    return model.capture(tokens, ["logits"])["logits"]


def test_a_value_replaced_by_itself_changes_no_bit(model: Model, tokens: torch.Tensor) -> None:
    clean = logits(model, tokens)
    with model.tapped(dict.fromkeys(model.sites(), torch.clone)):
        assert torch.equal(logits(model, tokens), clean)


def test_frozen_parts_without_an_edit_change_no_bit(model: Model, tokens: torch.Tensor) -> None:
    clean = logits(model, tokens)
    for frozen in [(), *[(each,) for each in FROZEN], FROZEN]:
        with model.edit(frozen=frozen):
            assert torch.equal(logits(model, tokens), clean)


MODULES = {
    "attn_out": r"\.(post_attention_layernorm|self_attn|attention|attn)",
    "mlp_out": r"\.(post_feedforward_layernorm|mlp)",
    "resid_post": "",
}


@pytest.mark.parametrize("kind", MODULES)
def test_a_replacement_acts_like_a_handwritten_hook(model: Model, tokens: torch.Tensor, kind: str) -> None:
    names = [
        name
        for name, _ in model.hf.named_modules()
        if re.fullmatch(rf"(?!.*vision).*\b(layers|h)\.1{MODULES[kind]}", name)
        and ("norm" not in name or model.family in ("gemma2", "gemma3", "olmo2"))
    ]
    change = torch.randn(model.d_model)

    def hook(_: object, args: tuple, output: Any) -> Any:
        return (output[0] + change, *output[1:]) if isinstance(output, tuple) else output + change

    handle = model.hf.get_submodule(max(names, key=len)).register_forward_hook(hook)
    expected = logits(model, tokens)
    handle.remove()
    with model.tapped({Site(kind, 1): lambda value: value + change}):
        torch.testing.assert_close(logits(model, tokens), expected, rtol=0, atol=0)
    assert (expected - logits(model, tokens)).abs().max() > 0.01


def test_changes_of_the_stream_reach_both_readers(model: Model, tokens: torch.Tensor) -> None:
    change = torch.randn(model.d_model)

    def changed(kind: str, layer: int) -> torch.Tensor:
        with model.tapped({Site(kind, layer): lambda value: value + change}):
            return logits(model, tokens)

    before = changed("resid_pre", 1)
    torch.testing.assert_close(changed("resid_post", 0), before, rtol=0, atol=0)
    if not model.parallel:
        torch.testing.assert_close(changed("resid_mid", 1), changed("attn_out", 1), rtol=1e-4, atol=1e-5)


def test_what_a_tap_kept_does_not_change_afterwards(build: Build, tokens: torch.Tensor) -> None:
    model, kept = Model(build("llama")), []
    clean = model.capture(tokens, ["resid_mid.1"])["resid_mid.1"]
    with model.tapped({Site("resid_mid", 1): kept.append}), model.tapped({Site("resid_mid", 1): torch.zeros_like}):
        logits(model, tokens)
    assert torch.equal(kept[0], clean)


def test_queries_keys_values_and_patterns_can_be_replaced(model: Model, tokens: torch.Tensor) -> None:
    with model.tapped({Site("q", 1): torch.zeros_like}):
        pattern = model.capture(tokens, ["pattern.1"])["pattern.1"]
    allowed = pattern > 0
    torch.testing.assert_close(pattern, allowed / allowed.sum(-1, keepdim=True))
    with model.tapped({Site("pattern", 1): lambda value: value * 2}):
        doubled = model.capture(tokens, ["attn_heads.1"])["attn_heads.1"]
    with model.tapped({Site("v", 1): lambda value: value * 2}):
        torch.testing.assert_close(model.capture(tokens, ["attn_heads.1"])["attn_heads.1"], doubled)
    with model.tapped({Site("k", 1): lambda value: value * 3}):
        sharp_keys = model.capture(tokens, ["pattern.1"])["pattern.1"]
    with model.tapped({Site("q", 1): lambda value: value * 3}):
        torch.testing.assert_close(model.capture(tokens, ["pattern.1"])["pattern.1"], sharp_keys)


def test_norm_scales_and_norms_before_their_gain_can_be_replaced(model: Model, tokens: torch.Tensor) -> None:
    norm, layer = model.block(1).mlp_norm, 1
    if norm is None:
        pytest.skip("no norm before the MLP")
    stream = model.capture(tokens, [f"{'resid_pre' if model.parallel else 'resid_mid'}.1"]).popitem()[1]
    with model.tapped({Site("mlp_norm_scale", layer): lambda value: torch.full_like(value, 0.7)}):
        scaled = model.capture(tokens, ["mlp_in.1", "mlp_in_pregain.1"])
    torch.testing.assert_close(scaled["mlp_in.1"], norm.apply(stream, torch.tensor([0.7])), rtol=1e-5, atol=1e-5)
    with model.tapped({Site("mlp_in_pregain", layer): lambda _: norm.centre(stream) * 0.7}):
        again = model.capture(tokens, ["mlp_in.1"])["mlp_in.1"]
    torch.testing.assert_close(again, scaled["mlp_in.1"], rtol=1e-5, atol=1e-5)


def test_frozen_values_are_those_of_the_run_without_the_edit(model: Model, tokens: torch.Tensor) -> None:
    parts = {"patterns": "pattern.2", "norms": "final_norm_scale", "mlps": "mlp_out.2"}
    clean = model.capture(tokens, parts.values())
    change = {Site("resid_pre", 1): lambda value: value + 1.0 * torch.arange(value.shape[-1]) % 3}
    for frozen in FROZEN:
        with model.edit(frozen=[frozen]), model.tapped(change):
            edited = model.capture(tokens, parts.values())
        for part, site in parts.items():
            assert torch.equal(edited[site], clean[site]) == (part == frozen)


def test_nothing_is_left_behind(build: Build, tokens: torch.Tensor) -> None:
    model = Model(build("gemma3"))
    clean = logits(model, tokens)

    def fail(_: torch.Tensor) -> None:
        raise KeyError("a tap failed")

    with pytest.raises(KeyError), model.edit(frozen=FROZEN), model.tapped({Site("pattern", 1): fail}):
        logits(model, tokens)
    assert torch.equal(logits(model, tokens), clean)
    assert not any(
        each._forward_hooks or each._forward_pre_hooks for each in model.hf.modules() if "Layer" in str(each)
    )
    with pytest.raises(NotFound), model.tapped({Site("q", 0): torch.zeros_like}), model.tapped({Site("q", 9): fail}):
        pass
    assert torch.equal(logits(model, tokens), clean)


def test_only_what_is_needed_runs(build: Build, tokens: torch.Tensor) -> None:
    model, ran = Model(build("llama")), []
    for layer in model.hf.model.layers:
        layer.register_forward_pre_hook(lambda module, _: ran.append(module))
    model.capture(tokens, ["resid_post.0", "q.1"])
    assert len(ran) == 2


def test_wrong_replacements_and_names_are_refused(build: Build, tokens: torch.Tensor) -> None:
    model = Model(build("llama"))
    short, message = {Site("mlp_out", 1): lambda value: value[..., 0]}, r"mlp_out.1 returned the shape \(3, 10\)"
    with pytest.raises(BadInput, match=message), model.tapped(short):
        logits(model, tokens)
    for wrong in ("mlps", ["mlp"]):
        with pytest.raises(BadInput, match="patterns, norms, mlps"), model.edit(frozen=wrong):
            pass
    cache = DynamicCache(config=model.hf.config)
    with pytest.raises(Unsupported, match="without a key-value cache"), model.edit(frozen=["norms"]):
        model.hf(tokens, **{cache_name(model.hf): cache})


def test_two_models_over_one_module_do_not_disturb_each_other(build: Build, tokens: torch.Tensor) -> None:
    hf = build("llama")
    first, second = Model(hf), Model(hf)
    clean = logits(first, tokens)
    with first.tapped({Site("v", 1): lambda value: value * 2, Site("resid_post", 0): lambda value: value + 1}):
        alone = logits(first, tokens)
        with second.tapped({Site("v", 1): lambda value: value + 0, Site("q", 0): lambda value: value + 0}):
            assert torch.equal(logits(second, tokens), alone)
        assert torch.equal(logits(first, tokens), alone)
    assert torch.equal(logits(first, tokens), clean)
    assert "generate" not in vars(hf)


def test_blocks_may_end_in_any_order(build: Build, tokens: torch.Tensor) -> None:
    hf = build("llama")
    first, second = Model(hf), Model(hf)
    clean = logits(first, tokens)
    for other in (first, second):
        one, two = (model.tapped({Site("resid_post", 1): lambda value: value + 1}) for model in (first, other))
        one.__enter__()
        once = logits(first, tokens)
        two.__enter__()
        assert not torch.equal(logits(first, tokens), once)
        one.__exit__(None, None, None)
        assert torch.equal(logits(first, tokens), once)
        assert "generate" in vars(hf)
        two.__exit__(None, None, None)
        assert torch.equal(logits(first, tokens), clean)
        assert "generate" not in vars(hf)
        assert not hf._forward_hooks


def test_one_thread_at_a_time_and_no_copies_while_taps_act(build: Build, tokens: torch.Tensor) -> None:
    model, refused = Model(build("llama")), []
    clean = logits(model, tokens)

    def elsewhere() -> None:
        try:
            logits(model, tokens)
        except Unsupported as error:
            refused.append(str(error))

    def meet(_: torch.Tensor) -> None:
        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()

    with model.tapped({Site("resid_post", 0): meet}):
        assert torch.equal(logits(model, tokens), clean)
        with pytest.raises(Unsupported, match="cannot be copied"):
            copy.deepcopy(model.hf)
    assert len(refused) == 1
    assert "Another thread" in refused[0]
    assert torch.equal(logits(Model(copy.deepcopy(model.hf)), tokens), clean)
