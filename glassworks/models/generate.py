"""Continue a prompt, token by token.

This module must not know edits or sites; it is told whether a key-value cache is exact.
"""

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import DynamicCache

from glassworks.models.run import cache_name


def end_tokens(hf: nn.Module) -> set[int]:
    """Ids that end a text, as the model's generation settings name them."""
    ends = getattr(getattr(hf, "generation_config", None), "eos_token_id", None)
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def continue_tokens(
    hf: nn.Module, tokens: Int[Tensor, " token"], most: int, temperature: float | int, seed: int, cached: bool
) -> list[int]:
    """Sample the tokens that follow, up to an end token.

    Args:
        hf: the language model.
        tokens: the prompt's ids, on the model's device.
        most: how many tokens to add at most.
        temperature: 0 takes the likeliest token each time; else the logits are divided by it.
        seed: of the sampling.
        cached: whether keys and values of earlier tokens are kept (faster), or every step runs the whole text.
    """
    cache = DynamicCache(config=hf.config) if cached else None  # pyright: ignore[reportArgumentType]
    name, generator = cache_name(hf), torch.Generator().manual_seed(seed)
    ends, added, step = end_tokens(hf), [], tokens[None]
    while len(added) < most:
        logits = hf(input_ids=step, use_cache=cached, **{name: cache}).logits[0, -1].float().cpu()
        token = _choose(logits, temperature, generator)
        added.append(token)
        if token in ends:
            break
        last = step.new_tensor([[token]])
        step = last if cached else torch.cat([step, last], dim=1)
    return added


def _choose(logits: Tensor, temperature: float | int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator))
