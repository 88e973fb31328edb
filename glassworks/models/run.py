"""Run: where the tokens of one forward lie in their texts.

With a key-value cache a forward sees only the newest tokens; whoever changes values by position needs to know which
they are. This module must not know taps or edits.
"""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Int
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Run:
    """One forward of the model; a new one each time, so that what was kept for another is recognised.

    Attributes:
        end: how many tokens the texts have by now, with those that the cache holds.
        lengths: how many of them each row's prompt has; what follows was generated, or only fills the row up.
        ids: the ids that the text began with, or None where the model got embeddings.
    """

    end: int
    lengths: tuple[int, ...]
    ids: Int[Tensor, "row token"] | None

    def start(self, value: Tensor) -> int:
        """The position in the text of a value's (row, token, ...) first token."""
        return self.end - value.shape[1]


def next_run(before: Run | None, given: tuple, named: dict[str, Any], lengths: tuple[int, ...] | None) -> Run:
    """Tell the run that a forward begins.

    Args:
        before: the last one, which this continues where the cache ends there.
        given: what the model is called with, by position.
        named: and by name.
        lengths: of the prompts, where they are known; else all that comes at once is prompt.
    """
    ids, cache = named.get("input_ids", given[0] if given else None), named.get("past_key_values")
    rows, tokens = (named["inputs_embeds"] if ids is None else ids).shape[:2]
    cached = 0 if cache is None else int(cache.get_seq_length())
    if not cached:
        return Run(tokens, lengths or (tokens,) * rows, ids)
    if before is not None and before.end == cached:
        return Run(cached + tokens, before.lengths, before.ids)
    return Run(cached + tokens, lengths or (cached,) * rows, None)
