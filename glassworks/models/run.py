"""Run: where the tokens of one forward lie in their texts.

With a key-value cache a forward sees only the newest tokens; whoever changes values by position needs to know which
they are. This module must not know taps or edits.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Int
from torch import Tensor, nn

CACHE_NAMES = ("cache", "past_key_values")
"""What `forward` calls its key-value cache: transformers from 5.24 on, and before."""


@final
@dataclass(frozen=True, eq=False)
class Run:
    """One forward of the model; a new one each time, so that what was kept for another is recognised.

    Attributes:
        end: how many tokens the texts have by now, with those that the cache holds.
        cached: how many of them the cache holds.
        lengths: how many of them each row's prompt has; what follows was generated, or only fills the row up.
        ids: the ids that the text began with, or None where the model got embeddings.
    """

    end: int
    cached: int
    lengths: tuple[int, ...]
    ids: Int[Tensor, "row token"] | None

    def start(self, value: Tensor) -> int:
        """The position in the text of a value's (row, token, ...) first token."""
        return self.end - value.shape[1]


def cache_name(hf: nn.Module) -> str:
    """The name under which a model's `forward` takes its key-value cache."""
    parameters = inspect.signature(hf.forward).parameters
    return next((name for name in CACHE_NAMES if name in parameters), "past_key_values")


def forward_arguments(hf: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call of the model by name, however they were passed; the cache is always `cache`, None if absent.

    Names that `forward` does not declare keep their place in `kwargs`: a caller may still use the cache's old name.
    """
    positional = dict(zip(inspect.signature(hf.forward).parameters, args, strict=False))
    named = {**positional, **kwargs}
    caches = [named.pop(name) for name in CACHE_NAMES if name in named]
    return named | {"cache": next((cache for cache in caches if cache is not None), None)}


def next_run(before: Run | None, arguments: Mapping[str, Any], lengths: tuple[int, ...] | None) -> Run:
    """The run that a forward begins.

    Args:
        before: the last run, which this one continues where the cache ends there.
        arguments: what the model is called with, as `forward_arguments` names it.
        lengths: of the prompts, where they are known; else all that comes at once is prompt.
    """
    ids, cache = arguments.get("input_ids"), arguments["cache"]
    rows, tokens = (arguments["inputs_embeds"] if ids is None else ids).shape[:2]
    cached = 0 if cache is None else int(cache.get_seq_length())
    if not cached:
        return Run(tokens, 0, lengths or (tokens,) * rows, ids)
    if before is not None and before.end == cached:
        return Run(cached + tokens, cached, before.lengths, before.ids)
    return Run(cached + tokens, cached, lengths or (cached,) * rows, None)
