"""Tiny random models of every family: 3 layers, grouped heads, every gain and bias away from its neutral value."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from glassworks.models import Model

COMMON = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA = COMMON | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4, "layer_types": SLIDING}
NEOX = {key: value for key, value in COMMON.items() if key != "num_key_value_heads"}
NEOX |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
GPT2 = {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 32, "bos_token_id": None}
VISION = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 28,
    "patch_size": 14,
}


def _gemma3_multimodal() -> Any:
    config = transformers.Gemma3Config(
        text_config=GEMMA | {"final_logit_softcapping": 3.0},  # which this class never applies
        vision_config=dict(VISION),
        mm_tokens_per_image=4,
        image_token_index=60,
        boi_token_index=59,
        eoi_token_index=58,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "gemma2": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)
    ),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(**GEMMA, final_logit_softcapping=3.0)
    ),
    "gemma3_multimodal": _gemma3_multimodal,
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**GPT2, eos_token_id=None, scale_attn_by_inverse_layer_idx=True)
    ),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**NEOX)),
    "gpt_neox_sequential": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**NEOX, use_parallel_residual=False)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**COMMON, attention_bias=True, mlp_bias=True)
    ),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**COMMON, sliding_window=4)),
    "olmo2": lambda: transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**COMMON, attention_bias=True)),
    "phi3": lambda: transformers.Phi3ForCausalLM(transformers.Phi3Config(**COMMON, sliding_window=5)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**COMMON, use_sliding_window=True, sliding_window=4, layer_types=SLIDING)
    ),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**COMMON, head_dim=8, attention_bias=True)),
}


def random_module(family: str) -> Any:
    """The Hugging Face module of a family, every parameter random."""
    torch.manual_seed(0)
    hf = FAMILIES[family]().eval()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            neutral = 1.0 if parameter.ndim == 1 and name.endswith("weight") and "gemma" not in family else 0.0
            spread = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(neutral + spread * torch.randn_like(parameter))
    return hf


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest) -> Model:
    return Model(random_module(request.param), name=request.param)


@pytest.fixture(scope="session")
def build() -> Callable[[str], Any]:
    return random_module


@pytest.fixture(scope="session")
def families() -> list[str]:
    return sorted(FAMILIES)


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    return torch.randint(0, 57, (3, 10), generator=torch.Generator().manual_seed(1))
