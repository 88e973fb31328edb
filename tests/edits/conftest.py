"""Tiny random models of three kinds (pre-norm, post-norm too, parallel), and random coders for them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from glassworks.coders import BatchTopK, Coder, JumpReLU, Scope, TopK, Transcoder
from glassworks.edits import FeatureRef
from glassworks.models import Model
from glassworks.sites import Site

SIZES = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"max_position_embeddings": 32, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
GEMMA = {"num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
MODULES = {
    "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**SIZES, **GEMMA)),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZES)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=2)),
}


def random_model(family: str) -> Model:
    torch.manual_seed(0)
    hf = MODULES[family]()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            neutral = 1.0 if parameter.ndim == 1 and name.endswith("weight") and family != "gemma3" else 0.0
            parameter.copy_(neutral + torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.25))
    return Model(hf, name=family)


@pytest.fixture(scope="session", params=sorted(MODULES))
def model(request: pytest.FixtureRequest) -> Model:
    return random_model(request.param)


@pytest.fixture
def llama() -> Model:
    return random_model("llama")


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 61, (3, 9), generator=torch.Generator().manual_seed(1))


def random_coder(read: str, write: str, kind: str) -> Transcoder:
    torch.manual_seed(len(read) + int(read[-1]))
    weights = {"w_enc": torch.randn(50, 24) / 5, "b_enc": torch.randn(50) / 9}
    weights |= {"w_dec": torch.randn(50, 24) / 5, "b_dec": torch.randn(24) / 9}
    activations = {"topk": TopK(12), "batch": BatchTopK(12), "jumprelu": JumpReLU(torch.rand(50) / 2)}
    return Transcoder(Site.parse(read), Site.parse(write), activations[kind], weights)


@pytest.fixture
def scope() -> Scope:
    coders: dict[str, Coder] = {
        f"mlp_in.{layer}": random_coder(f"mlp_in.{layer}", f"mlp_out.{layer}", "topk" if layer == 1 else "jumprelu")
        for layer in range(3)
    }
    coders["resid_post.1"] = random_coder("resid_post.1", "resid_post.1", "jumprelu")
    return Scope("random", "random", coders, ["mlp_in.0", "mlp_in.1", "mlp_in.2"])


@pytest.fixture
def active(model: Model, tokens: torch.Tensor, scope: Scope) -> Any:
    """Two features that are active at positions of the first prompt, in layers 0 and 1, with their activations."""
    found = []
    for layer, position in ((0, 2), (1, 5)):
        x = model.capture(tokens, [f"mlp_in.{layer}"])[f"mlp_in.{layer}"][0, position]
        with torch.no_grad():
            latents = scope[f"mlp_in.{layer}"].encode(x)
        found.append((FeatureRef(f"mlp_in.{layer}", position, int(latents.indices[0])), float(latents.values[0])))
    return SimpleNamespace(features=[ref for ref, _ in found], values=[value for _, value in found], scope=scope)
