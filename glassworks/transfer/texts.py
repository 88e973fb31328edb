"""Texts: what two models are aligned on when nothing else is said, and chats as texts.

Maps carry a circuit only where they were fitted to the kind of prompt that it works on, so prompts of the domain, of
which nothing needs to be known, go with general text. This module must not know what is done with them.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from glassworks import smallworld
from glassworks.errors import BadInput
from glassworks.harvest import Document
from glassworks.models import Model
from glassworks.transfer.pairing import Paired

PROMPTS = 0.3
"""Share of the small world's texts that are what users ask."""


def world_texts(count: int, seed: int = 0, split: str = "train") -> list[str]:
    """General text of the small world and unanswered messages of its users, mixed, for the embedded models.

    Args:
        count: how many texts.
        seed: the same seed gives the same texts.
        split: "train", or "held_out" for texts that no model was trained on.
    """
    asked = round(PROMPTS * count)
    each = -(-asked // len(smallworld.KINDS))
    messages = [
        smallworld.asked(exchange.user)
        for row in zip(*(smallworld.exchanges(kind, each, seed, split) for kind in smallworld.KINDS), strict=True)
        for exchange in row
    ][:asked]
    general = [document.text for document in islice(smallworld.stream(seed + 1, 0, split), count - asked)]
    return [text for _, text in sorted(_spread(general) + _spread(messages))]


def readable(a: Model, b: Model, documents: Iterable[Document]) -> Iterator[Paired]:
    """Documents of a corpus as two models read them: chats in the template of each, or of the one that has one.

    Raises:
        BadInput: there is a chat, and neither model has a template.
    """
    for document in documents:
        if isinstance(document, str) or not document or isinstance(document[0], int):
            yield document  # pyright: ignore[reportReturnType]
        else:
            texts = [_written(model, document) for model in (a, b) if _template(model)]
            if not texts:
                raise BadInput(f"The text has chats, and neither {a.name} nor {b.name} has a chat template.")
            yield (texts[0], texts[-1])


def _spread(texts: Sequence[str]) -> list[tuple[float, str]]:
    """Places between 0 and 1 for texts, evenly, so that lists mix in proportion and always alike."""
    return [((number + 0.5) / len(texts), text) for number, text in enumerate(texts)]


def _template(model: Model) -> Any:
    return getattr(model.tokenizer, "chat_template", None)


def _written(model: Model, messages: Sequence[Any]) -> str:
    asks = messages[-1].get("role") == "user"
    text = str(model.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks))
    return text.removeprefix(str(model.tokenizer.bos_token or ""))
