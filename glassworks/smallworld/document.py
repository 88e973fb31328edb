"""One document of the corpus: a text whose answer is known, and the rule that keeps some texts out of training.

Every generator returns documents of this form, so packing, measuring and ground truth need to know nothing of how a
sentence came about. This file knows no facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from zlib import crc32

from glassworks.errors import BadInput

SPLITS = ("train", "held_out")
OPENINGS = ("", "", "", "", "Fact: ", "Remember: ", "We know that ", "In geography, ", "It is true that ")


@dataclass(frozen=True)
class Document:
    """A text of the small world.

    Attributes:
        task: the name of the task that it belongs to.
        text: the whole text.
        spans: [start, end) of each answer in the text, in characters; empty where nothing can be predicted for sure.
    """

    task: str
    text: str
    spans: tuple[tuple[int, int], ...]

    @property
    def prompt(self) -> str:
        """The text before the first answer, without the blank that the answer's token carries."""
        return self.text[: self.spans[0][0]].rstrip(" ") if self.spans else self.text

    @property
    def answer(self) -> str:
        """The first answer."""
        return self.text[slice(*self.spans[0])] if self.spans else ""


def fill(task: str, template: str, **slots: str) -> Document:
    """Make a document of a template, with `{answer}` in it as the answer and the first letter in upper case.

    Args:
        task: the task's name.
        template: text with {slots}; `{answer}` is the only one that must be there.
        slots: the values of the slots.
    """
    before, after = template.split("{answer}")
    before = capitalised(before.format(**slots))
    text = before + slots["answer"] + after.format(**slots)
    return Document(task, text, ((len(before), len(before) + len(slots["answer"])),))


def opened(document: Document, opening: str) -> Document:
    """Put an opening such as "Fact: " in front of a document, except where the text asks or has a colon itself."""
    if not opening or "?" in document.text or ":" in document.text:
        return document
    text = document.text
    first = text.split(" ", 1)[0]
    if first in ("The", "For", "People"):
        text = text[0].lower() + text[1:]
    spans = tuple((start + len(opening), end + len(opening)) for start, end in document.spans)
    return Document(document.task, opening + text, spans)


def joined(documents: Sequence[Document], task: str) -> Document:
    """Write several documents one after the other, as one text with several answers."""
    text, spans = "", []
    for document in documents:
        text += " " if text else ""
        spans += [(start + len(text), end + len(text)) for start, end in document.spans]
        text += document.text
    return Document(task, text, tuple(spans))


def capitalised(text: str) -> str:
    """Write the first letter in upper case."""
    return text[:1].upper() + text[1:]


def in_split(key: str, split: str, part: int = 10) -> bool:
    """Whether a key belongs to a split; one of `part` keys is held out, chosen by a checksum.

    Raises:
        BadInput: if there is no such split.
    """
    if split not in SPLITS:
        raise BadInput(f"There is no split {split!r} of the corpus: use one of {', '.join(SPLITS)}.")
    return (crc32(key.encode()) % part == 0) == (split == "held_out")


def two(random: Random, items: Sequence[str]) -> tuple[str, str]:
    """Draw two different items."""
    first, second = random.sample(list(items), 2)
    return first, second
