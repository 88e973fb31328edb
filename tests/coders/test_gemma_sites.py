"""Where Gemma Scope 1 and 2 read, told apart by results on a tiny random Gemma; and coders that do not fit a model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import glassworks as gw
from glassworks.errors import BadInput, NotFound
from glassworks.models import Model

D, F, LAYER = 24, 60, 1
SHAPE = {
    "vocab_size": 61, "hidden_size": D, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "max_position_embeddings": 32,
    "attn_implementation": "eager",  # older SDPA leaves out the soft-cap of Gemma 2
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
IDS = torch.arange(10)


@pytest.fixture(scope="module", params=["gemma2", "gemma3"])
def gemma(request) -> Any:
    classes = {
        "gemma2": (transformers.Gemma2ForCausalLM, transformers.Gemma2Config),
        "gemma3": (transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig),
    }
    torch.manual_seed(0)
    make, configure = classes[request.param]
    hf = make(configure(**SHAPE)).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5))
    return hf


def params(d_in: int) -> dict[str, Tensor]:
    shapes = {"w_enc": (d_in, F), "w_dec": (F, D if d_in == D else d_in), "b_enc": (F,), "b_dec": (d_in,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()} | {"threshold": torch.rand(F)}


def latents(t: dict[str, Tensor], x: Tensor) -> Tensor:
    z = x @ t["w_enc"] + t["b_enc"]
    return z.relu() * (z > t["threshold"])


def publish(root: Path, t: dict[str, Tensor], second: bool, family: str) -> gw.Scope:
    """The same weights as a coder of one of the two releases."""
    if second:
        folder = root / "gemma-scope-2-270m-pt"
        name = f"{family}/layer_{LAYER}_width_16k_l0_big"
        (folder / name).mkdir(parents=True)
        save_file(t, folder / name / "params.safetensors")
    else:
        ends = {"resid_post": "res", "attn_out": "att", "mlp_out": "mlp", "transcoder": "transcoders"}
        folder = root / f"gemma-scope-2b-pt-{ends[family]}"
        name = f"layer_{LAYER}/width_16k/average_l0_9"
        (folder / name).mkdir(parents=True)
        np.savez(folder / name / "params.npz", **{key.replace("w_", "W_"): v.numpy() for key, v in t.items()})
    return gw.load_scope(folder)


def heard(hf: Any, path: str, side: str) -> Tensor:
    """What a module gets or gives, by a hook of PyTorch's own on the model."""
    kept: list[Tensor] = []
    module = hf.get_submodule(path)
    if side == "input":
        hook = module.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    else:
        hook = module.register_forward_hook(lambda _, args, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        hf(IDS[None])
    hook.remove()
    return kept[0][0].detach()


@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize(
    ("family", "path", "side"),
    [
        ("resid_post", "model.layers.1", "output"),
        ("attn_out", "model.layers.1.self_attn.o_proj", "input"),
        ("mlp_out", "model.layers.1.post_feedforward_layernorm", "output"),
    ],
)
def test_autoencoders_read_what_the_module_gives(gemma, tmp_path, second, family, path, side):
    x = heard(gemma, path, side)
    t = params(x.shape[1])
    coder = publish(tmp_path, t, second, family).select(kind="sae")
    acts = Model(gemma).capture(IDS, coder.reads)[coder.reads[0].name]
    assert torch.allclose(coder.encode(acts).dense(), latents(t, x), rtol=1e-4, atol=1e-4)


def test_transcoders_of_the_two_releases_read_other_tensors(gemma, tmp_path):
    t = params(D)
    after = heard(gemma, "model.layers.1.pre_feedforward_layernorm", "output")
    stream = heard(gemma, "model.layers.1.pre_feedforward_layernorm", "input")
    before = stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + 1e-6)
    found = {}
    for second, x in ((True, after), (False, before)):
        coder = publish(tmp_path, t, second, "transcoder").select(kind="transcoder")
        acts = Model(gemma).capture(IDS, coder.reads)[coder.reads[0].name]
        found[second] = coder.encode(acts).dense()
        assert torch.allclose(found[second], latents(t, x), rtol=1e-4, atol=1e-4)
        assert [site.name for site in coder.writes] == ["mlp_out.1"]
    assert ((found[True] > 0) != (found[False] > 0)).float().mean() > 0.02
    assert not torch.allclose(found[True], found[False], rtol=0.1, atol=0.1)


def test_a_coder_of_another_width_is_refused(gemma, tmp_path):
    coder = publish(tmp_path, params(D + 8), True, "resid_post").select(kind="sae")
    acts = Model(gemma).capture(IDS, coder.reads)[coder.reads[0].name]
    with pytest.raises(BadInput, match=r"reads width 32; the activations have width 24"):
        coder.encode(acts)


def test_a_coder_of_a_site_that_the_model_lacks_is_refused(tmp_path):
    coder = publish(tmp_path, params(D), False, "transcoder").select(kind="transcoder")
    shape = {key: value for key, value in SHAPE.items() if key not in ("head_dim", "query_pre_attn_scalar")}
    shape = {key: value for key, value in shape.items() if key not in ("sliding_window", "layer_types")}
    olmo = Model(transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**shape)))
    with pytest.raises(NotFound, match=r"has no site mlp_in_pregain\.1: its MLP reads the residual stream"):
        olmo.capture(IDS, coder.reads)
