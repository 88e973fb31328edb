"""Our attention function: plain matrix products, so that queries, keys, values and patterns can be read and changed.

Hugging Face models call it through the attention interface under the name in `NAME`, which is why one function
serves every family. It must not know sites beyond the four names it offers, nor who listens.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "glassworks"

Inside = Callable[[str, Tensor], Tensor]

LISTENERS: WeakKeyDictionary[nn.Module, list[Inside]] = WeakKeyDictionary()
"""Attention modules with listeners: called in turn with `q`, `k`, `v` or `pattern` and the value (batch, token, heads,
width), each returns what attention goes on with."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attend, softmax(query key^T scaling + mask) value, offering every intermediate value to the module's listeners.

    Args:
        module: the attention module that calls.
        query: (batch, heads, token, d_head).
        key: (batch, kv_heads, key, d_head); each serves heads / kv_heads consecutive heads.
        value: (batch, kv_heads, key, d_head).
        attention_mask: added to the scores, (batch, 1, token, key).
        scaling: factor of the scores, d_head ** -0.5 by default.
        dropout: share of the pattern that is dropped while training.
        softcap: scores are bent to softcap * tanh(scores / softcap) (Gemma 2).

    Returns:
        The heads' outputs (batch, token, heads, d_head), and the pattern (batch, heads, token, key).
    """
    listeners = LISTENERS.get(module) or ()

    def offered(name: str, tensor: Tensor) -> Tensor:
        for listener in listeners:
            tensor = listener(name, tensor.transpose(1, 2)).transpose(1, 2)
        return tensor

    query, key, value = offered("q", query), offered("k", key), offered("v", value)
    group = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(group, dim=1).transpose(2, 3)
    scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    pattern = offered("pattern", torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype))
    pattern = nn.functional.dropout(pattern, p=dropout, training=module.training)
    return (pattern @ value.repeat_interleave(group, dim=1)).transpose(1, 2).contiguous(), pattern


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)
