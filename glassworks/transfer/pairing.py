"""Pairing: the same text as two models see it, token by token.

Two tokenizers cut a text differently, and a state of a causal model has seen the text up to the end of its token. So
tokens are partners where they end at the same character: the last tokens of the spans that both cut out. This module
must not know what is done with the states.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.errors import BadInput, Unsupported
from glassworks.harvest import batches, pad
from glassworks.models import Model, Prompt
from glassworks.sites import Site

BATCH_TOKENS = 4096
CHARACTERS = 8
"""Characters a token of the context that are tokenized at a time; the rest of a long text follows."""

Paired = Prompt | tuple[Prompt, Prompt]
"""A text, or token ids, that both models get; or what each of them gets: two texts (aligned where they agree), or two
lists of as many ids (aligned one by one)."""


@final
@dataclass(frozen=True, eq=False)
class Pair:
    """One text as two models see it.

    Attributes:
        tokens_a: ids for model A.
        tokens_b: ids for model B.
        at_a: positions of A's tokens that have a partner, ascending.
        at_b: the partners' positions, as many.
        document: number of the text that it is from.
    """

    tokens_a: tuple[int, ...]
    tokens_b: tuple[int, ...]
    at_a: tuple[int, ...]
    at_b: tuple[int, ...]
    document: int = 0

    def __len__(self) -> int:
        return len(self.at_a)


@final
@dataclass(frozen=True, eq=False)
class Rows:
    """States of two models at tokens that are partners; row i of everything belongs together.

    Attributes:
        a: site of A -> states.
        b: site of B -> states.
        documents: number of the text of each row.
        at_a: position of A's token there.
    """

    a: dict[str, Float[Tensor, "row d_a"]]
    b: dict[str, Float[Tensor, "row d_b"]]
    documents: Int[Tensor, " row"]
    at_a: Int[Tensor, " row"]

    def __len__(self) -> int:
        return len(self.documents)


def pair(a: Model, b: Model, texts: Iterable[Paired], start: bool = False) -> list[Pair]:
    """Find the tokens that are partners in each text; texts longer than a context are cut into pieces.

    Args:
        a: one model.
        b: another, of any tokenizer.
        texts: what both read.
        start: whether tokens before the text (BOS), or first ids, are partners too; their states are constants.

    Returns:
        Pairs of at least one partner, in the order of the texts.

    Raises:
        BadInput: no token of one model has a partner, lists of ids differ in length, or a prompt is not usable.
        Unsupported: a tokenizer does not tell where its tokens lie in the text.
    """
    found = [each for number, text in enumerate(texts) for each in _pairs(a, b, text, number, start) if len(each)]
    if not found:
        raise BadInput(
            f"{a.name} and {b.name} share no text: no token of one ends where a token of the other does; "
            "give texts that both tokenizers read, or pairs of token ids."
        )
    return found


def states(
    a: Model,
    b: Model,
    pairs: Sequence[Pair],
    sites_a: Sequence[str | Site],
    sites_b: Sequence[str | Site],
    batch: int = BATCH_TOKENS,
) -> Iterator[Rows]:
    """Run both models over pairs and give the states of partners, batch by batch, each pair once.

    Args:
        a: the model of `tokens_a`.
        b: the model of `tokens_b`.
        pairs: what `pair` found.
        sites_a: what to keep of A; heads are laid side by side.
        sites_b: what to keep of B.
        batch: tokens of A in one forward pass.
    """
    for group in batches([each.tokens_a for each in pairs], batch):
        some = [pairs[each] for each in group]
        lengths = torch.tensor([len(each) for each in some])
        yield Rows(
            _picked(a, [each.tokens_a for each in some], [each.at_a for each in some], sites_a),
            _picked(b, [each.tokens_b for each in some], [each.at_b for each in some], sites_b),
            torch.tensor([each.document for each in some]).repeat_interleave(lengths),
            torch.tensor([at for each in some for at in each.at_a]),
        )


def _picked(
    model: Model, tokens: Sequence[Sequence[int]], at: Sequence[Sequence[int]], sites: Sequence[str | Site]
) -> dict[str, Tensor]:
    ids, _ = pad(tokens)
    found = model.capture(ids, sites, batch_size=len(ids)) if sites else {}
    rows = torch.tensor([number for number, each in enumerate(at) for _ in each])
    columns = torch.tensor([position for each in at for position in each])
    return {name: value.flatten(2)[rows.to(value.device), columns.to(value.device)] for name, value in found.items()}


def _pairs(a: Model, b: Model, text: Paired, number: int, start: bool) -> Iterator[Pair]:
    one, other = cast(tuple[Prompt, Prompt], text if _is_couple(text) else (text, text))
    if isinstance(one, str) and isinstance(other, str):
        yield from _of_texts(a, b, one, other, number, start)
    elif isinstance(one, str) or isinstance(other, str):
        raise BadInput("A pair holds a text and a list of token ids; give two texts, or two lists of ids.")
    else:
        yield _of_ids(a, b, one, other, number, start)


def _is_couple(text: object) -> bool:
    return isinstance(text, tuple) and len(text) == 2 and not any(isinstance(each, int) for each in text)


def _of_ids(a: Model, b: Model, one: Prompt, other: Prompt, number: int, start: bool) -> Pair:
    ids_a, ids_b = a.tokens(one).tolist(), b.tokens(other).tolist()
    if len(ids_a) != len(ids_b):
        raise BadInput(f"A pair has {len(ids_a)} ids for {a.name} and {len(ids_b)} for {b.name}; give as many.")
    at = tuple(range(0 if start else 1, len(ids_a)))
    return Pair(tuple(ids_a), tuple(ids_b), at, at, number)


def _of_texts(a: Model, b: Model, one: str, other: str, number: int, start: bool) -> Iterator[Pair]:
    """Pairs of a text; where both models get the same and it is too long for one, of its pieces in turn."""
    if one != other:
        yield _piece(a, b, one, other, number, start)[0]
        return
    at, step = 0, CHARACTERS * min(a.context_length, b.context_length)
    while at < len(one):
        piece = one[at : at + step]
        found, end, cut = _piece(a, b, piece, piece, number, start)
        yield found
        if not end or not (cut or at + step < len(one)):
            return
        at += end


def _piece(a: Model, b: Model, one: str, other: str, number: int, start: bool) -> tuple[Pair, int, bool]:
    """Partners in a text; the character of A's text where the last one ends, and whether a context was too short."""
    (ids_a, ends_a), (ids_b, ends_b) = _tokenized(a, one), _tokenized(b, other)
    found = _common(one, ends_a, other, ends_b)
    common = sorted((ends_a[end], at, end) for end, at in found.items() if start or end)
    at_a, at_b = tuple(each[0] for each in common), tuple(each[1] for each in common)
    cut = len(ids_a) == a.context_length or len(ids_b) == b.context_length
    # What follows the last partner cannot be seen from it.
    kept_a, kept_b = ids_a[: max(at_a, default=-1) + 1], ids_b[: max(at_b, default=-1) + 1]
    return Pair(kept_a, kept_b, at_a, at_b, number), common[-1][2] if common else 0, cut


def _common(one: str, ends_a: Mapping[int, int], other: str, ends_b: Mapping[int, int]) -> dict[int, int]:
    """Character of A's text where a token ends -> B's token that ends there.

    Where there is none, spaces do not count: one tokenizer puts the space before a word, another one after it.
    """
    there = _translated(one, other)
    found = {end: ends_b[there(end)] for end in ends_a if there(end) in ends_b}
    taken, seen_a, seen_b = set(found.values()), _visible(one), _visible(other)
    free = {seen_b[end]: at for end, at in ends_b.items() if at not in taken and seen_b[end]}
    for end in ends_a:
        if end not in found and there(seen_a[end]) in free:
            found[end] = free[there(seen_a[end])]
    return found


def _visible(text: str) -> list[int]:
    """For each place between characters, where the last visible character before it ends."""
    places = [0]
    for end, character in enumerate(text, 1):
        places.append(places[-1] if character.isspace() else end)
    return places


def _tokenized(model: Model, text: str) -> tuple[tuple[int, ...], dict[int, int]]:
    """Token ids, as many as the context holds, and end character -> the last token that ends there (0: before all)."""
    if model.tokenizer is None:
        raise BadInput(f"{model.name} has no tokenizer, so texts cannot be read; give pairs of token ids.")
    if not getattr(model.tokenizer, "is_fast", False):
        raise Unsupported(f"The tokenizer of {model.name} does not tell where tokens lie; give pairs of token ids.")
    found = model.tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids, spans = found["input_ids"][: model.context_length], found["offset_mapping"][: model.context_length]
    ends: dict[int, int] = {}
    for position, (_, end) in enumerate(spans):
        if end or position == 0:  # a token after the text, such as EOS, lies nowhere, like one before it
            ends[end] = position
    return tuple(ids), ends


def _translated(one: str, other: str) -> Callable[[int], int]:
    """Where a place between characters of a text lies in another; -1 where they differ there."""
    if one == other:
        return lambda end: end
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    starts = [block.a for block in blocks]

    def there(end: int) -> int:
        block = blocks[max(0, bisect_right(starts, end - 1) - 1)]
        return block.b + end - block.a if block.a < end <= block.a + block.size else 0 if end == 0 else -1

    return there
