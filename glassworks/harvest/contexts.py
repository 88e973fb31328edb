"""Contexts: what a model sees at once, made from documents, and which of its tokens become rows.

A document goes alone and is cut where it is longer than the context, or documents are packed one after the other.
Where documents begin with a token for the beginning of text, every context does. It must not know where they come from.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor

from glassworks.errors import BadInput, nearest
from glassworks.models import Model

Document = str | Sequence[int] | Sequence[dict[str, Any]]
"""A text, token ids that are used as given, or the messages of a chat: `{"role": ..., "content": ...}` each."""

TEXTS_AT_ONCE = 256
CONTEXT = 1024


@final
@dataclass(frozen=True)
class Reading:
    """How documents become rows.

    Attributes:
        context: tokens that a model sees at once; 0 for 1024, or as many as the model takes.
        packed: whether documents are put one after the other into full contexts; else each goes alone.
        untrained: which positions become no rows: `bos` (the first of every context, and every token for the
            beginning of text), `eos`, `pad`, `template` (the start of a chat up to the user's text).
        rows: after how many rows to stop, 0 for the end of the corpus; the last context is used whole.
    """

    context: int = 0
    packed: bool = False
    untrained: tuple[str, ...] = ("bos", "eos", "pad")
    rows: int = 0

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"untrained": list(self.untrained)}


@final
@dataclass(frozen=True, eq=False)
class Context:
    """Token ids that a model sees at once, the document of each, and which of them become rows."""

    tokens: list[int]
    documents: list[int]
    kept: list[bool]


@final
class Contexts:
    """All contexts of a corpus, as often as they are asked for.

    Args:
        model: whose tokenizer and template are used.
        documents: the corpus; it is read anew each time.
        reading: how.
    """

    def __init__(self, model: Model, documents: Iterable[Document], reading: Reading) -> None:
        unknown = [each for each in reading.untrained if each not in MASKS]
        if unknown:
            raise BadInput(f"There are no positions {unknown[0]!r} to leave out; {nearest(unknown[0], MASKS)}.")
        if reading.context and not 2 <= reading.context <= model.context_length:
            raise BadInput(f"A context has 2 to {model.context_length} tokens with this model; got {reading.context}.")
        self.model, self.documents, self.reading = model, documents, reading
        self.length = reading.context or min(CONTEXT, model.context_length)
        self.masks = [MASKS[each](model.tokenizer) for each in reading.untrained]

    def __iter__(self) -> Iterator[Context]:
        rows = 0
        for tokens, documents in self._cut():
            kept = [True] * len(tokens)
            for mask in self.masks:
                mask(tokens, kept)
            yield Context(tokens, documents, kept)
            rows += sum(kept)
            if 0 < self.reading.rows <= rows:
                return

    def _cut(self) -> Iterator[tuple[list[int], list[int]]]:
        held: list[int] = []
        owners: list[int] = []
        bos, eos = (_special_id(self.model.tokenizer, name) for name in ("bos", "eos"))
        for number, tokens in enumerate(token_ids(self.model, self.documents)):
            first = tokens[:1] if tokens[:1] == [bos] else []
            joined = self.reading.packed and bool(held) and not first
            between = [eos] if joined and eos is not None and held[-1] != eos else []
            held += between + tokens
            owners += owners[-1:] * len(between) + [number] * len(tokens)
            start = 0
            while len(held) - start >= self.length or (len(held) > start and not self.reading.packed):
                lead = first if held[start] not in first else []
                end = min(start + self.length - len(lead), len(held))
                yield lead + held[start:end], owners[start : start + 1] * len(lead) + owners[start:end]
                start = end
            del held[:start], owners[:start]
        if held:
            yield held, owners


def token_ids(model: Model, documents: Iterable[Document]) -> Iterator[list[int]]:
    """Token ids of documents, some at once, because tokenizers are faster so."""
    remaining = iter(documents)
    while some := list(islice(remaining, TEXTS_AT_ONCE)):
        texts = [each for each in some if isinstance(each, str)]
        encoded = iter(_encoded(model, texts)) if texts else iter(())
        for each in some:
            yield next(encoded) if isinstance(each, str) else _ids(model, each)


def render(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> list[int]:
    """Token ids of a chat, as the model's own template writes it.

    Raises:
        BadInput: the model has no template, or its template refuses the messages.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise BadInput("The corpus has chats and the model has no chat template; use an instruction-tuned model.")
    try:
        asks = messages[-1].get("role") == "user"
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks)
    except Exception as error:  # templates raise whatever they like
        raise BadInput(f"The model's chat template refuses a chat ({error}); correct its roles.") from error
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _encoded(model: Model, texts: list[str]) -> list[list[int]]:
    if model.tokenizer is None:
        raise BadInput("This model has no tokenizer, so texts cannot be read; give documents of token ids.")
    return model.tokenizer(texts, verbose=False)["input_ids"]


def _special_id(tokenizer: Any, name: str) -> int | None:
    return getattr(tokenizer, f"{name}_token_id", None)


def _ids(model: Model, document: Sequence[Any]) -> list[int]:
    if document and isinstance(document[0], dict):
        return render(model.tokenizer, document)
    ids = [int(each) for each in document]
    wrong = [each for each in ids if not 0 <= each < model.vocab_size]
    if wrong:
        raise BadInput(f"A document holds the token id {wrong[0]}; the model knows ids 0 to {model.vocab_size - 1}.")
    return ids


Mask = Callable[[list[int], list[bool]], None]


def _special(name: str) -> Callable[[Any], Mask]:
    def make(tokenizer: Any) -> Mask:
        wanted = _special_id(tokenizer, name)

        def mask(tokens: list[int], kept: list[bool]) -> None:
            if wanted in tokens:
                kept[:] = [keep and token != wanted for keep, token in zip(kept, tokens, strict=True)]

        return mask

    return make


def _beginning(tokenizer: Any) -> Mask:
    tokens_of_bos = _special("bos")(tokenizer)

    def mask(tokens: list[int], kept: list[bool]) -> None:
        kept[0] = False
        tokens_of_bos(tokens, kept)

    return mask


def _template(tokenizer: Any) -> Mask:
    if getattr(tokenizer, "chat_template", None) is None:
        raise BadInput("The model has no chat template whose start could be left out; leave 'template' away.")
    # What the template writes before the user's text is what two chats have in common.
    one, other = (render(tokenizer, [{"role": "user", "content": text}]) for text in ("a", "?"))
    length = next(number for number, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])

    def mask(tokens: list[int], kept: list[bool]) -> None:
        if tokens[:length] == one[:length]:
            kept[:length] = [False] * length

    return mask


MASKS: dict[str, Callable[[Any], Mask]] = {
    "bos": _beginning,
    "eos": _special("eos"),
    "pad": _special("pad"),
    "template": _template,
}


def columns_of(contexts: Sequence[Context]) -> dict[str, Tensor]:
    """Tokens, documents, positions and following tokens of the rows that contexts become, in their order."""
    found: dict[str, list[int]] = {"tokens": [], "documents": [], "positions": [], "following": []}
    for each in contexts:
        after = [*each.tokens[1:], -1]
        next_owner = [*each.documents[1:], -1]
        for position, keep in enumerate(each.kept):
            if keep:
                owner = each.documents[position]
                found["tokens"].append(each.tokens[position])
                found["documents"].append(owner)
                found["positions"].append(position)
                found["following"].append(after[position] if next_owner[position] == owner else -1)
    return {name: torch.tensor(values, dtype=torch.int32) for name, values in found.items()}
