"""Conservation laws and hand-written twins for every site kind of every family."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from glassworks.errors import NotFound
from glassworks.models import Model
from glassworks.sites import KINDS, Site

Build = Callable[[str], Any]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def values(model: Model, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    return model.capture(tokens, model.sites())


def test_streams_add_up(model: Model, values: dict[str, torch.Tensor]) -> None:
    for layer in range(model.n_layers):
        before, after = values[f"resid_pre.{layer}"], values[f"resid_post.{layer}"]
        attention, mlp = values[f"attn_out.{layer}"], values[f"mlp_out.{layer}"]
        if not model.parallel:
            torch.testing.assert_close(values[f"resid_mid.{layer}"], before + attention, **CLOSE)
        torch.testing.assert_close(after, before + attention + mlp, **CLOSE)
    torch.testing.assert_close(values["embed"], values["resid_pre.0"], rtol=0, atol=0)


def test_shapes_are_those_of_the_table(model: Model, values: dict[str, torch.Tensor]) -> None:
    widths = {
        "d_model": (model.d_model,), "1": (1,), "vocabulary": (model.vocab_size,),
        "heads x d_head": (model.n_heads, model.d_head), "kv_heads x d_head": (model.n_kv_heads, model.d_head),
        "heads x key": (model.n_heads, 10), "heads * d_head": (model.n_heads * model.d_head,),
        "d_mlp": (model.d_mlp,),
    }  # fmt: skip
    for name, value in values.items():
        assert value.shape == (3, 10, *widths[KINDS[Site.parse(name).kind].shape]), name


def test_logits_come_from_the_final_stream(model: Model, values: dict[str, torch.Tensor]) -> None:
    final = values[f"resid_post.{model.n_layers - 1}"]
    matrix, bias = model.unembedding
    logits = model.final_norm.apply(final, values["final_norm_scale"]) @ matrix.T + (0 if bias is None else bias)
    if model.softcap is not None:
        logits = model.softcap * torch.tanh(logits / model.softcap)
    torch.testing.assert_close(values["logits"], logits, **CLOSE)


def test_attention_is_rebuilt_from_the_block(model: Model, values: dict[str, torch.Tensor]) -> None:
    for layer in range(model.n_layers):
        block, at = model.block(layer), lambda kind, layer=layer: values[f"{kind}.{layer}"]
        v = torch.einsum("btd,khd->btkh", at("attn_in"), block.w_v) + (0 if block.b_v is None else block.b_v)
        torch.testing.assert_close(at("v"), v, **CLOSE)
        each_head = v.repeat_interleave(model.n_heads // model.n_kv_heads, dim=2)
        heads = torch.einsum("bqhk,bkhe->bqhe", at("pattern"), each_head)
        torch.testing.assert_close(at("attn_heads"), heads.flatten(2), **CLOSE)
        out = torch.einsum("bqhe,hde->bqd", heads, block.w_o) + (0 if block.b_o is None else block.b_o)
        if block.attn_post_norm is not None:
            out = block.attn_post_norm.apply(out, at("attn_post_norm_scale"))
        torch.testing.assert_close(at("attn_out"), out, **CLOSE)


def test_norms_are_rebuilt_from_their_scales(model: Model, values: dict[str, torch.Tensor]) -> None:
    for layer in range(model.n_layers):
        block, at = model.block(layer), lambda kind, layer=layer: values[f"{kind}.{layer}"]
        before_mlp = at("resid_pre" if model.parallel else "resid_mid")
        if block.attn_norm is not None:
            torch.testing.assert_close(
                at("attn_in"), block.attn_norm.apply(at("resid_pre"), at("attn_norm_scale")), **CLOSE
            )
        if block.mlp_norm is None:
            torch.testing.assert_close(at("mlp_in"), before_mlp, rtol=0, atol=0)
            continue
        torch.testing.assert_close(at("mlp_in"), block.mlp_norm.apply(before_mlp, at("mlp_norm_scale")), **CLOSE)
        bias = 0 if block.mlp_norm.bias is None else block.mlp_norm.bias
        torch.testing.assert_close(at("mlp_in"), at("mlp_in_pregain") * block.mlp_norm.gain + bias, **CLOSE)


def test_patterns_are_causal_distributions(model: Model, values: dict[str, torch.Tensor]) -> None:
    distance = torch.arange(10)[:, None] - torch.arange(10)[None]
    for layer in range(model.n_layers):
        pattern = values[f"pattern.{layer}"].transpose(1, 2)
        torch.testing.assert_close(pattern.sum(-1), torch.ones(3, model.n_heads, 10), **CLOSE)
        seen, window = (pattern > 0).any(dim=(0, 1)), WINDOWS.get(model.name, [99] * 3)[layer]
        assert torch.equal(seen, (distance >= 0) & (distance < window))


WINDOWS = {
    "gemma2": [4, 99, 4], "gemma3": [4, 99, 4], "gemma3_multimodal": [4, 99, 4], "qwen2": [4, 99, 4],
    "mistral": [4, 4, 4], "phi3": [5, 5, 5],
}  # fmt: skip


def test_values_equal_those_of_transformers_own_attention(model: Model, tokens: torch.Tensor, build: Build) -> None:
    eager = build(model.name)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        out = eager(tokens, output_hidden_states=True, output_attentions=True, use_cache=False)
    values = model.capture(tokens, model.sites())
    torch.testing.assert_close(values["logits"], out.logits, rtol=1e-6, atol=1e-6)
    for layer in range(model.n_layers):
        torch.testing.assert_close(values[f"resid_pre.{layer}"], out.hidden_states[layer], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            values[f"pattern.{layer}"].transpose(1, 2), out.attentions[layer], rtol=1e-6, atol=1e-6
        )


HOOKED = {
    "attn_in": (r"\.(self_attn|attention|attn)", "input"),
    "attn_heads": (r"\.(self_attn\.o_proj|attention\.dense|attn\.c_proj)", "input"),
    "mlp_in": (r"\.mlp", "input"),
    "mlp_neurons": (r"\.mlp\.(down_proj|c_proj|dense_4h_to_h)", "input"),
    "mlp_out": (r"\.(post_feedforward_layernorm|mlp)", "output"),
    "resid_post": ("", "output"),
}


@pytest.mark.parametrize("kind", HOOKED)
def test_values_equal_a_handwritten_hook(model: Model, tokens: torch.Tensor, kind: str) -> None:
    ending, side = HOOKED[kind]
    modules = {n: m for n, m in model.hf.named_modules() if re.fullmatch(rf"(?!.*vision).*\b(layers|h)\.1{ending}", n)}
    module, kept = modules[max(modules, key=len)], {}

    def hook(_: object, args: tuple, kwargs: dict, output: torch.Tensor) -> None:
        kept["input"], kept["output"] = (args[0] if args else kwargs["hidden_states"]), output

    handle = module.register_forward_hook(hook, with_kwargs=True)
    value = model.capture(tokens, [f"{kind}.1", "logits"])[f"{kind}.1"]
    handle.remove()
    torch.testing.assert_close(value, kept[side], rtol=0, atol=0)


@pytest.mark.parametrize(("family", "site", "reason"), [
    ("gpt_neox", "resid_mid.0", "both read resid_pre"), ("olmo2", "mlp_in_pregain.1", "mlp_in is resid_mid"),
    ("olmo2", "attn_norm_scale.0", "no norm before its attention"),
    ("gpt2", "mlp_post_norm_scale.0", "no norm after its MLP"),
    ("llama", "mlp_in.3", "layers 0 to 2"), ("llama", "mlp_inn.3", "the nearest are mlp_in"),
])  # fmt: skip
def test_a_missing_site_is_refused_with_its_reason(build: Build, family: str, site: str, reason: str) -> None:
    model = Model(build(family))
    with pytest.raises(NotFound, match=reason):
        model.capture([1, 2, 3], [site])


def test_kinds_by_family(build: Build, families: list[str]) -> None:
    lacking = {name: set(KINDS) - {site.kind for site in Model(build(name)).sites()} for name in families}
    post = {"attn_post_norm_scale", "mlp_post_norm_scale"}
    plain = ("gpt2", "gpt_neox_sequential", "llama", "mistral", "phi3", "qwen2", "qwen3")
    assert lacking == dict.fromkeys(plain, post) | {
        "gemma2": set(), "gemma3": set(), "gemma3_multimodal": set(), "gpt_neox": post | {"resid_mid"},
        "olmo2": {"attn_norm_scale", "mlp_norm_scale", "mlp_in_pregain"},
    }  # fmt: skip
