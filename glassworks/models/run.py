"""Run: where the tokens of one forward lie in their texts.

With a key-value cache a forward sees only the newest tokens; with padding on the left a text begins late. Whoever
changes values by position needs to know both. This module must not know taps or edits.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from glassworks.errors import Unsupported

CACHE_NAMES = ("cache", "past_key_values")
"""What `forward` calls its key-value cache: transformers from 5.24 on, and before."""


@final
@dataclass(frozen=True, eq=False)
class Prompts:
    """What the rows of a forward begin with; all that follows in a row was generated, or only fills it up.

    Attributes:
        lengths: how many tokens each row's prompt has.
        firsts: where in the row it begins: the number of tokens that fill the row up on the left.
        ids: the rows' ids, or None where the model got embeddings.
        reordered: whether rows change places between forwards, as they do in a beam search.
    """

    lengths: tuple[int, ...]
    firsts: tuple[int, ...]
    ids: Int[Tensor, "row token"] | None = None
    reordered: bool = False

    @property
    def width(self) -> int:
        """The number of tokens after which no row is within its prompt any more."""
        return max(first + length for first, length in zip(self.firsts, self.lengths, strict=True))

    def begin(self, rows: int, ids: Tensor | None) -> bool:
        """Whether a forward's rows begin with these prompts, or with copies of them, as far as its ids tell."""
        copies, rest = divmod(rows, len(self.lengths))
        if rest or ids is None or self.ids is None:
            return not rest
        width = min(ids.shape[1], self.ids.shape[1])
        return torch.equal(ids[:, :width], self.ids[:, :width].repeat_interleave(copies, dim=0).to(ids))

    def aligned(self, rows: int, ids: Tensor | None, mask: Any) -> "Prompts":
        """The prompts as one forward holds them.

        Args:
            rows: how many rows the forward has; several for each prompt are the beams or the samples of it.
            ids: the forward's ids, where these prompts do not have them.
            mask: the forward's attention mask (row, token so far), whose zeros at both ends are padding; masks of
                another form say nothing here.
        """
        copies = rows // len(self.lengths)
        firsts, lengths = ([each for each in given for _ in range(copies)] for given in (self.firsts, self.lengths))
        if isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask.all()):
            width, empty = self.width, mask == 0
            left = empty[:, :width].int().cumprod(1).sum(1).tolist()
            right = [0] * rows
            if mask.shape[1] >= width:
                right = empty[:, :width].flip(1).int().cumprod(1).sum(1).tolist()
            ends = [min(first + length, width - gap) for first, length, gap in zip(firsts, lengths, right, strict=True)]
            firsts = [max(pair) for pair in zip(firsts, left, strict=True)]
            lengths = [max(end - first, 0) for first, end in zip(firsts, ends, strict=True)]
        ids = ids if self.ids is None else self.ids.repeat_interleave(copies, dim=0)
        return replace(self, lengths=tuple(lengths), firsts=tuple(firsts), ids=ids)


@final
class Text:
    """The texts that one key-value cache holds; says only whether two forwards belong together."""


@final
@dataclass(frozen=True, eq=False)
class Run:
    """One forward of the model; a new one each time, so that what was kept for another is recognised.

    Attributes:
        end: how many tokens the texts have by now, with those that the cache holds.
        cached: how many of them the cache holds.
        prompts: what the texts began with; None where the cache was filled when nobody looked, or where a mask of
            more than two axes hides what is padding.
        text: the same for all forwards over one cache.
    """

    end: int
    cached: int
    prompts: Prompts | None
    text: Text

    def start(self, value: Tensor) -> int:
        """The token of the row (its padding counted) that a value's (row, token, ...) first token is."""
        if value.shape[1] > self.end:
            raise Unsupported("Keys and values in a cache of fixed size cannot be changed; use a dynamic cache.")
        return self.end - value.shape[1]

    def follows(self, before: "Run | None") -> bool:
        """Whether it goes on with the texts of an earlier forward, or with a shorter part of them."""
        return before is not None and self.cached > 0 and before.text is self.text and before.end >= self.cached


@cache
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]


def cache_name(hf: nn.Module) -> str:
    """The name under which a model's `forward` takes its key-value cache."""
    return next((name for name in CACHE_NAMES if name in _parameters(type(hf))), "past_key_values")


def forward_arguments(hf: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call of the model by name, however they were passed; the cache is always `cache`, None if absent.

    Names that `forward` does not declare keep their place in `kwargs`: a caller may still use the cache's old name.
    """
    named = {**dict(zip(_parameters(type(hf)), args, strict=False)), **kwargs}
    caches = [named.pop(name) for name in CACHE_NAMES if name in named]
    return named | {"cache": next((each for each in caches if each is not None), None)}


def next_run(runs: Mapping[Any, Run], arguments: Mapping[str, Any], known: Prompts | None) -> Run:
    """The run that a forward begins.

    Args:
        runs: the last forward over each key-value cache.
        arguments: what the model is called with, as `forward_arguments` names it.
        known: the prompts, where they are known; else, or where the forward has another text, all that comes without
            a cache is prompt.
    """
    ids, kept, mask = arguments.get("input_ids"), arguments["cache"], arguments.get("attention_mask")
    rows, tokens = (arguments["inputs_embeds"] if ids is None else ids).shape[:2]
    cached = 0 if kept is None else int(kept.get_seq_length())
    before = runs.get(kept) if cached else None
    if before is not None and before.end < cached:
        before = None  # somebody else went on with this cache
    text = Text() if before is None else before.text
    prompts = None if before is None else before.prompts
    if known is not None and not known.begin(rows, None if cached else ids):
        known = None
    if prompts is not None and (len(prompts.lengths) != rows or (known is None and cached < prompts.width)):
        prompts = None
    if known is not None and (prompts is None or cached < known.width):
        prompts = known.aligned(rows, ids if not cached else None, mask)
    elif not cached and (mask is None or (isinstance(mask, Tensor) and mask.ndim == 2)):
        prompts = Prompts((tokens,) * rows, (0,) * rows).aligned(rows, ids, mask)
    return Run(cached + tokens, cached, prompts, text)


def generation_prompts(hf: Any, args: tuple, kwargs: Mapping[str, Any]) -> Prompts | None:
    """The prompts of a call of transformers' own `generate`; None where it gets none."""
    named = dict(zip(("input_ids", "generation_config"), args, strict=False)) | dict(kwargs)
    config = named.get("generation_config") or hf.generation_config
    scale, beams, fill, ends = (
        getattr(config, name, None) if named.get(name) is None else named[name]
        for name in ("guidance_scale", "num_beams", "pad_token_id", "eos_token_id")
    )
    if scale not in (None, 1):
        raise Unsupported("Guidance runs a second text beside the prompt, where edits would act too; leave it out.")
    embedded = named.get("inputs_embeds")
    inputs = next((named[name] for name in ("inputs", "input_ids") if named.get(name) is not None), None)
    given = inputs if embedded is None else embedded
    if not isinstance(given, Tensor):
        return None
    rows, width = given.shape[:2]
    ids = inputs if embedded is None else None
    prompts = Prompts((width,) * rows, (0,) * rows, ids, (beams or 1) > 1)
    mask = named.get("attention_mask")
    ends = ends if isinstance(ends, list) else [ends]
    if mask is None and ids is not None and fill is not None and fill not in ends:
        mask = ids != fill  # as `generate` itself does
    return prompts if mask is None else prompts.aligned(rows, None, torch.as_tensor(mask))
