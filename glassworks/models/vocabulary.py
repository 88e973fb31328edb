"""Text to token ids and back, with the tokenizer's habits (added spaces, special tokens) kept out of sight.

A model without a tokenizer takes ids, and shows them as `#17`. This module must not know the model.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor

from glassworks.errors import BadInput, NotFound

Prompt = str | Sequence[int] | Int[Tensor, " _"]
"""Text, or token ids that are used as given."""

SPACE_MARKS = (" ", "▁", "Ġ")


@final
class Vocabulary:
    """What a model's tokens mean.

    Attributes:
        tokenizer: the Hugging Face tokenizer, or None.
        size: number of token ids that the model accepts.
        longest: number of tokens that fit into the model's context.
    """

    def __init__(self, tokenizer: Any, size: int, longest: int) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.longest = longest

    def tokens(self, prompt: Prompt) -> Int[Tensor, " token"]:
        """Turn a prompt into token ids; see `Model.tokens`."""
        ids = _as_list(self._encode(prompt, special=True) if isinstance(prompt, str) else prompt)
        if not ids:
            raise BadInput("The prompt is empty; give at least one token.")
        wrong = [each for each in ids if not 0 <= each < self.size]
        if wrong:
            raise BadInput(f"The prompt holds the token id {wrong[0]}; the model knows ids 0 to {self.size - 1}.")
        if len(ids) > self.longest:
            raise BadInput(
                f"The prompt has {len(ids)} tokens; the model's context holds {self.longest}, so shorten it."
            )
        return torch.tensor(ids, dtype=torch.long)

    def text(self, token: int) -> str:
        """Tell what a token shows, a leading space kept; see `Model.token_text`."""
        if self.tokenizer is None or self.tokenizer.convert_ids_to_tokens(token) is None:
            return f"#{token}"
        if token in self.tokenizer.all_special_ids:
            return str(self.tokenizer.convert_ids_to_tokens(token))
        # Tokenizers drop the first token's leading space: the second of two keeps it.
        alone, twice = self.decode([token]), self.decode([token, token])
        return twice[len(alone) :] if twice.startswith(alone) else alone

    def id(self, text: str) -> int:
        """Find the one token that shows a text; see `Model.token_id`."""
        pieces = self._encode(text, special=False)
        forms = (text, f" {text}", f"{text} ")
        words, spelled = self.tokenizer.get_vocab(), [text.replace(" ", mark) for mark in SPACE_MARKS]
        likely = {words[word] for word in spelled if word in words}
        likely |= {each[0] for each in (pieces, self._encode(forms[1], special=False)) if len(each) == 1}
        for by_text in ({self.text(token): token for token in likely}, self._by_text):
            token = next((by_text[form] for form in forms if form in by_text), None)
            if token is not None:
                return token
        parts = " | ".join(self.text(each) for each in pieces)
        raise NotFound(f"The text {text!r} is not one token but {len(pieces)} ({parts}); name one token's text.")

    @cached_property
    def _by_text(self) -> dict[str, int]:
        """What each token shows -> its id, the lowest where several show the same; slow for large vocabularies."""
        return {self.text(each): each for each in reversed(range(self.size))}

    def spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """The characters that each token shows; see `Model.spans`."""
        special = set() if self.tokenizer is None else set(self.tokenizer.all_special_ids)
        ordinary = [token for token in ids if token not in special]
        again = self._offsets(self.decode(ordinary)) if ordinary and self.tokenizer is not None else {}
        if again.get("ids") == ordinary:
            pairs = iter(again["spans"])
        else:
            ends = list(accumulate((len(self.text(token)) for token in ordinary), initial=0))
            pairs = iter(pairwise(ends))
        spans, end = [], 0
        for token in ids:
            start, end = (end, end) if token in special else next(pairs)
            spans.append((start, end))
        return spans

    def _offsets(self, text: str) -> dict[str, Any]:
        if not self.tokenizer.is_fast:
            return {}
        read = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return {"ids": list(read["input_ids"]), "spans": [tuple(each) for each in read["offset_mapping"]]}

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text; without a tokenizer, `#1 #2`."""
        if self.tokenizer is None:
            return " ".join(f"#{each}" for each in ids)
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _encode(self, text: str, special: bool) -> list[int]:
        if self.tokenizer is None:
            raise BadInput(f"This model has no tokenizer, so the text {text[:40]!r} cannot be read; give token ids.")
        if not text:
            raise BadInput("The text is empty; give at least one token.")
        try:
            return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise BadInput(f"The tokenizer cannot read the text {text[:40]!r} ({error}).") from error


def is_batch(prompts: object) -> bool:
    """Whether this is several prompts (a list of texts or id lists, a matrix of ids) and not one."""
    if isinstance(prompts, Tensor):
        return prompts.ndim == 2
    return not isinstance(prompts, str) and isinstance(prompts, Sequence) and not all(_is_id(each) for each in prompts)


def _is_id(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, Tensor) and value.ndim == 0)


def _as_list(ids: Sequence[int] | Tensor) -> list[int]:
    tensor = ids if isinstance(ids, Tensor) else torch.as_tensor(ids)
    if len(ids) and (tensor.ndim != 1 or tensor.is_floating_point() or tensor.dtype == torch.bool):
        raise BadInput(f"Token ids are whole numbers in a row; got {tensor.dtype} of the shape {tuple(tensor.shape)}.")
    return tensor.tolist()
