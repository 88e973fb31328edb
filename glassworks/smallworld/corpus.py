"""The corpus: every task of the small world, how often each occurs, and the stream of documents that training reads.

Documents are drawn, not stored: a seed and a split name them for ever. This file must not know tokenizers or models.
"""

from collections.abc import Callable, Iterator, Mapping
from random import Random

from glassworks.errors import NotFound
from glassworks.smallworld.algorithms import addition, brackets, copying, induction, plain
from glassworks.smallworld.document import Document, joined
from glassworks.smallworld.geography import attribute, composed, location, reverse
from glassworks.smallworld.language import agreement, antonym, plural, translation, words

Generator = Callable[[Random, str], Document]

TASKS: Mapping[str, tuple[Generator, float]] = {
    "location": (location, 0.12),
    "attribute": (attribute, 0.10),
    "reverse": (reverse, 0.02),
    "composed": (composed, 0.28),
    "antonym": (antonym, 0.07),
    "translation": (translation, 0.07),
    "plural": (plural, 0.02),
    "words": (words, 0.03),
    "agreement": (agreement, 0.04),
    "copying": (copying, 0.05),
    "induction": (induction, 0.04),
    "brackets": (brackets, 0.03),
    "addition": (addition, 0.14),
    "plain": (plain, 0.06),
}
PASSAGE_SHARE = 0.06
SENTENCES = ("location", "attribute", "composed", "plain", "copying", "words", "antonym")


def generate(task: str, count: int, seed: int, split: str = "held_out") -> list[Document]:
    """Draw documents of one task.

    Args:
        task: a key of `TASKS`.
        count: how many.
        seed: the same seed gives the same documents.
        split: "train" or "held_out"; tasks that are plain facts (antonym, translation, plural, words, plain) have one
            split only.

    Raises:
        NotFound: if there is no such task.
    """
    if task not in TASKS:
        raise NotFound(f"The small world has no task {task!r}: its tasks are {', '.join(TASKS)}.")
    random = Random(f"{seed}/{split}/{task}")
    return [TASKS[task][0](random, split) for _ in range(count)]


def stream(seed: int, part: int, split: str = "train") -> Iterator[Document]:
    """Yield documents of all tasks in the corpus's mixture, without end.

    Args:
        seed: the stream's seed.
        part: which part of the stream; parts are independent, so training can resume at any of them.
        split: "train" or "held_out".
    """
    random = Random(f"{seed}/{split}/part {part}")
    names, shares = list(TASKS), [share for _, share in TASKS.values()]
    while True:
        if random.random() < PASSAGE_SHARE:
            chosen = random.choices(SENTENCES, k=random.randrange(2, 4))
            yield joined([TASKS[name][0](random, split) for name in chosen], "passage")
        else:
            (name,) = random.choices(names, shares)
            yield TASKS[name][0](random, split)
