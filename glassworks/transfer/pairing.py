"""Pairing: the same text as two models see it, token by token, and the states of both at those tokens.

Two tokenizers cut a text differently, and a state of a causal model has seen the text up to the end of its token. Two
tokens are therefore partners if they end at the same character.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks import smallworld
from glassworks.errors import BadInput, Unsupported
from glassworks.harvest import Document, Recording, batches, pad
from glassworks.models import Model, Prompt
from glassworks.sites import Site

BATCH_TOKENS = 4096
CHARACTERS = 8
"""Characters per token of the context that are tokenized at a time; the rest of a long text follows."""
MESSAGES = 0.3
"""Share of messages of users among the small world's texts."""

PairedText = Prompt | tuple[Prompt, Prompt]
"""A text, or token ids, for both models; or one for each of them: two texts (aligned where they agree), or two lists
of equally many ids (aligned one by one)."""


@final
@dataclass(frozen=True, eq=False)
class TokenPairs:
    """One text as two models see it.

    Attributes:
        tokens_a: ids for model A.
        tokens_b: ids for model B.
        at_a: positions of A's tokens that have a partner, ascending.
        at_b: positions of the partners, as many.
        document: number of the text.
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
class PairedStates:
    """States of two models at tokens that are partners; row i of everything belongs together.

    Attributes:
        a: site of A -> states.
        b: site of B -> states.
        documents: number of the text of each row.
        at_a: position of A's token in that text.
    """

    a: dict[str, Float[Tensor, "row d_a"]]
    b: dict[str, Float[Tensor, "row d_b"]]
    documents: Int[Tensor, " row"]
    at_a: Int[Tensor, " row"]

    def __len__(self) -> int:
        return len(self.documents)


def pair(a: Model, b: Model, texts: Iterable[PairedText], start: bool = False) -> list[TokenPairs]:
    """Find the tokens that are partners in each text; texts longer than a context are cut into pieces.

    Args:
        a: one model.
        b: another, with any tokenizer.
        texts: what both read.
        start: whether the token before the text (BOS), or the first id, counts; its state is a constant.

    Returns:
        Every text or piece with at least one pair of partners, in the order of the texts.

    Raises:
        BadInput: no token has a partner, lists of ids differ in length, or a prompt is not usable.
        Unsupported: a tokenizer does not report where its tokens lie in the text.
    """
    pairs: list[TokenPairs] = []
    for number, text in enumerate(texts):
        for_each = isinstance(text, tuple) and len(text) == 2 and not any(isinstance(part, int) for part in text)
        text_a, text_b = cast(tuple[Prompt, Prompt], text if for_each else (text, text))
        if isinstance(text_a, str) and isinstance(text_b, str):
            pairs += _pair_texts(a, b, text_a, text_b, number, start)
        elif isinstance(text_a, str) or isinstance(text_b, str):
            raise BadInput("A pair holds a text and a list of token ids; give two texts, or two lists of ids.")
        else:
            ids_a, ids_b = a.tokens(text_a).tolist(), b.tokens(text_b).tolist()
            if len(ids_a) != len(ids_b):
                raise BadInput(f"A pair has {len(ids_a)} ids for {a.name} and {len(ids_b)} for {b.name}; give as many.")
            at = tuple(range(0 if start else 1, len(ids_a)))
            pairs.append(TokenPairs(tuple(ids_a), tuple(ids_b), at, at, number))
    pairs = [some for some in pairs if len(some)]
    if not pairs:
        raise BadInput(
            f"{a.name} and {b.name} share no text: no token of one ends where a token of the other does; "
            "give texts that both tokenizers read, or pairs of token ids."
        )
    return pairs


def paired_states(
    a: Model,
    b: Model,
    pairs: Sequence[TokenPairs],
    sites_a: Sequence[str | Site],
    sites_b: Sequence[str | Site],
    batch: int = BATCH_TOKENS,
) -> Iterator[PairedStates]:
    """Run both models over pairs and yield the states of partners, batch by batch, each pair once.

    Args:
        a: the model of `tokens_a`.
        b: the model of `tokens_b`.
        pairs: what `pair` returned.
        sites_a: what to keep of A; heads are concatenated.
        sites_b: what to keep of B.
        batch: tokens of A in one forward pass.
    """

    def pick(model: Model, tokens: Sequence[Sequence[int]], at: Sequence[Sequence[int]], sites: Sequence) -> dict:
        ids, _ = pad(tokens)
        values = model.capture(ids, sites, batch_size=len(ids)) if sites else {}
        rows = torch.tensor([number for number, places in enumerate(at) for _ in places])
        columns = torch.tensor([place for places in at for place in places])
        return {
            name: value.flatten(2)[rows.to(value.device), columns.to(value.device)] for name, value in values.items()
        }

    for group in batches([some.tokens_a for some in pairs], batch):
        chosen = [pairs[number] for number in group]
        lengths = torch.tensor([len(some) for some in chosen])
        yield PairedStates(
            pick(a, [some.tokens_a for some in chosen], [some.at_a for some in chosen], sites_a),
            pick(b, [some.tokens_b for some in chosen], [some.at_b for some in chosen], sites_b),
            torch.tensor([some.document for some in chosen]).repeat_interleave(lengths),
            torch.tensor([at for some in chosen for at in some.at_a]),
        )


def second_site(site: Site, depth: int) -> Site:
    """The name of model B's site in a recording of two models.

    Sites have no model in their names, so B's layers are numbered on after A's: with an A of 4 layers, `resid_post.6`
    is B's `resid_post.2`.

    Args:
        site: as B calls it.
        depth: how many layers A has.

    Raises:
        BadInput: the site has no layer.
    """
    if site.layer is None:
        raise BadInput(f"The site {site} has no layer, so two models' cannot be distinguished; choose another.")
    return Site(site.kind, site.layer + depth)


@torch.no_grad()
def record_both(a: Model, b: Model, texts: Iterable[PairedText], sites: Sequence[str | Site]) -> Recording:
    """Record the same sites of two models, token by token, as training data for a crosscoder over both.

    Args:
        a: a model.
        b: another.
        texts: what both read.
        sites: of both; those of B are named by `second_site`.
    """
    places, pairs = [Site.parse(site) for site in sites], pair(a, b, texts)
    parts = list(paired_states(a, b, pairs, places, places))
    values = {site.name: torch.cat([part.a[site.name].float().cpu() for part in parts]) for site in places}
    for site in places:
        values[second_site(site, a.n_layers).name] = torch.cat([part.b[site.name].float().cpu() for part in parts])
    documents, at = (torch.cat([getattr(part, name) for part in parts]) for name in ("documents", "at_a"))
    tokens = {some.document: some.tokens_a for some in pairs}
    ids = [tokens[document][place] for document, place in zip(documents.tolist(), at.tolist(), strict=True)]
    return Recording(torch.tensor(ids), documents, at, values)


def world_texts(count: int, seed: int = 0, split: str = "train") -> list[str]:
    """General text of the small world mixed with unanswered messages of its users, for the embedded models.

    Maps are good where they were fitted, so prompts of the domain, which need no labels, go with general text.

    Args:
        count: how many texts.
        seed: the same seed gives the same texts.
        split: "train", or "held_out" for texts that no model was trained on.
    """
    asks = round(MESSAGES * count)
    per_kind = -(-asks // len(smallworld.KINDS))
    exchanges = [smallworld.exchanges(kind, per_kind, seed, split) for kind in smallworld.KINDS]
    messages = [smallworld.chat_prompt(one.user) for row in zip(*exchanges, strict=True) for one in row][:asks]
    general = [document.text for document in islice(smallworld.stream(seed + 1, 0, split), count - asks)]
    # Places between 0 and 1, evenly for either list, mix both in proportion and always alike.
    placed = [((n + 0.5) / len(texts), text) for texts in (general, messages) for n, text in enumerate(texts)]
    return [text for _, text in sorted(placed)]


def readable(a: Model, b: Model, documents: Iterable[Document]) -> Iterator[PairedText]:
    """Documents of a corpus as two models read them: chats in the template of each, or of the one that has one.

    Raises:
        BadInput: there is a chat, and neither model has a template.
    """
    templated = [model for model in (a, b) if getattr(model.tokenizer, "chat_template", None)]
    for document in documents:
        if isinstance(document, str) or not document or isinstance(document[0], int):
            yield document  # pyright: ignore[reportReturnType]
            continue
        if not templated:
            raise BadInput(f"The text has chats, and neither {a.name} nor {b.name} has a chat template.")
        messages: list[Any] = list(document)
        unanswered, texts = messages[-1].get("role") == "user", []
        for model in templated:
            text = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=unanswered)
            texts.append(str(text).removeprefix(str(model.tokenizer.bos_token or "")))
        yield (texts[0], texts[-1])


def _pair_texts(a: Model, b: Model, text_a: str, text_b: str, document: int, start: bool) -> Iterator[TokenPairs]:
    """Partners in two texts; where both models read one text that is too long for a context, of its pieces in turn."""
    same, at, step = text_a == text_b, 0, CHARACTERS * min(a.context_length, b.context_length)
    while not same or at < len(text_a):
        piece_a, piece_b = (text_a[at : at + step],) * 2 if same else (text_a, text_b)
        (ids_a, ends_a), (ids_b, ends_b) = _tokenize(a, piece_a), _tokenize(b, piece_b)
        partners = _common_ends(piece_a, ends_a, piece_b, ends_b)
        common = sorted((ends_a[end], place, end) for end, place in partners.items() if start or end)
        at_a, at_b = tuple(places[0] for places in common), tuple(places[1] for places in common)
        # The models are not run on what follows the last partner: it cannot be seen from there.
        kept_a, kept_b = ids_a[: max(at_a, default=-1) + 1], ids_b[: max(at_b, default=-1) + 1]
        yield TokenPairs(kept_a, kept_b, at_a, at_b, document)
        cut = len(ids_a) == a.context_length or len(ids_b) == b.context_length
        if not (same and common and common[-1][2] and (cut or at + step < len(text_a))):
            return
        at += common[-1][2]


def _common_ends(text_a: str, ends_a: dict[int, int], text_b: str, ends_b: dict[int, int]) -> dict[int, int]:
    """Character of A's text where a token ends -> B's token that ends there.

    Where none ends there, spaces do not count: some tokenizers put the space before a word, others after it.
    """
    matching = SequenceMatcher(None, text_a, text_b, autojunk=False).get_matching_blocks() if text_a != text_b else []
    starts = [block.a for block in matching]

    def in_b(end: int) -> int:
        """Where a place between characters of A's text lies in B's; -1 where the texts differ there."""
        if not matching or end == 0:
            return end
        block = matching[max(0, bisect_right(starts, end - 1) - 1)]
        return block.b + end - block.a if block.a < end <= block.a + block.size else -1

    def visible(text: str) -> list[int]:
        """For each place between characters, the end of the last visible character before it."""
        places = [0]
        for end, character in enumerate(text, 1):
            places.append(places[-1] if character.isspace() else end)
        return places

    partners = {end: ends_b[in_b(end)] for end in ends_a if in_b(end) in ends_b}
    taken, visible_a, visible_b = set(partners.values()), visible(text_a), visible(text_b)
    free = {visible_b[end]: at for end, at in ends_b.items() if at not in taken and visible_b[end]}
    for end in ends_a:
        if end not in partners and in_b(visible_a[end]) in free:
            partners[end] = free[in_b(visible_a[end])]
    return partners


def _tokenize(model: Model, text: str) -> tuple[tuple[int, ...], dict[int, int]]:
    """Token ids, as many as the context holds, and end character -> the last token that ends there (0: before all)."""
    if model.tokenizer is None:
        raise BadInput(f"{model.name} has no tokenizer, so texts cannot be read; give pairs of token ids.")
    if not getattr(model.tokenizer, "is_fast", False):
        raise Unsupported(f"The tokenizer of {model.name} does not tell where tokens lie; give pairs of token ids.")
    encoding = model.tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids, spans = encoding["input_ids"][: model.context_length], encoding["offset_mapping"][: model.context_length]
    ends: dict[int, int] = {}
    for position, (_, end) in enumerate(spans):
        if end or position == 0:  # a token after the text, such as EOS, lies nowhere, like one before it
            ends[end] = position
    return tuple(ids), ends
