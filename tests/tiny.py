"""The smallest Gemma 3, with random weights, for tests that need a model and not a trained one."""

import torch
import transformers


def tiny_gemma3(vocabulary: int) -> transformers.Gemma3ForCausalLM:
    """Two layers of width 16; always the same weights."""
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        max_position_embeddings=32,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=0.3,
    )
    return transformers.Gemma3ForCausalLM(config).requires_grad_(False)
