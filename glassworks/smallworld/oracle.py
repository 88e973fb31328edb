"""Ground truth: for a prompt of the small world, what it is about, the concept in between, and the answer.

Prompts are read with the very templates that write them, so every form of the corpus is understood and nothing else.
This file must not know models.
"""

import re
from dataclasses import dataclass
from functools import cache
from random import Random

from glassworks.errors import NotFound
from glassworks.smallworld import geography
from glassworks.smallworld.document import OPENINGS
from glassworks.smallworld.facts import antonyms, cities, find_city, find_place, places
from glassworks.smallworld.language import ANTONYM

TASKS = {
    "location": geography.LOCATION,
    "attribute": geography.ATTRIBUTE + geography.ATTRIBUTE_DEMONYM,
    "reverse": geography.CAPITAL_OF,
    "composed": geography.COMPOSED + geography.COMPOSED_DEMONYM,
}


@dataclass(frozen=True)
class Truth:
    """What a prompt of the small world asks.

    Attributes:
        task: the task's name in the corpus.
        subject: the name or word that the prompt gives, such as Dallas.
        intermediate: the concept between subject and answer, such as Texas; None where one look-up is enough.
        answer: the word or name that follows the prompt.
    """

    task: str
    subject: str
    intermediate: str | None
    answer: str


@dataclass(frozen=True)
class Swap:
    """Two prompts that differ in their city alone, and the answers of both: patching one into the other swaps them."""

    prompt: str
    answer: str
    other_prompt: str
    other_answer: str


def truth(prompt: str) -> Truth:
    """Return what a prompt asks, for the geography tasks and the opposites in three languages.

    Args:
        prompt: the text up to the answer, such as "The capital of the state containing Dallas is".

    Raises:
        NotFound: if the prompt is no sentence of the small world, or states what is not so.
    """
    for opening in sorted(OPENINGS, key=len, reverse=True):
        if prompt.startswith(opening):
            rest = prompt[len(opening) :]
            for task, pattern in _patterns():
                match = pattern.fullmatch(rest)
                known = match and _answer(task, match.groupdict())
                if known:
                    return known
    raise NotFound(
        f"The small world has no answer to {prompt!r}: "
        'a prompt that it understands is "The capital of the state containing Dallas is".'
    )


def swaps(split: str = "held_out", count: int = 100, kind: str = "state", seed: int = 0) -> list[Swap]:
    """Draw pairs of "The capital of the state containing Dallas is" prompts about cities of different places.

    Args:
        split: the split that the first city is of; the other city is any.
        count: how many pairs.
        kind: "state" or "country".
        seed: the same seed gives the same pairs.
    """
    random = Random(f"swaps {seed}")
    ones = geography.two_hop_prompts(split, kind=kind)
    others = geography.two_hop_prompts("train", kind=kind) + geography.two_hop_prompts("held_out", kind=kind)
    pairs: list[Swap] = []
    while len(pairs) < count:
        one, other = random.choice(ones), random.choice(others)
        if one.answer != other.answer:
            pairs.append(Swap(one.prompt, one.answer, other.prompt, other.answer))
    return pairs


def _answer(task: str, slots: dict[str, str]) -> Truth | None:
    """The truth behind the slots of a prompt, or nothing where they do not fit together."""
    name = {label: key for key, label in geography.LABELS.items()}.get(slots.get("a", ""), slots.get("a", "demonym"))
    kind = slots.get("k")
    if task == "location":
        place = find_city(slots["c"]).place
        return Truth(task, slots["c"], None, place.name) if kind in (None, place.kind) else None
    if task == "reverse":
        owners = [place for place in _all_places() if place.capital == slots["v"] and kind in (None, place.kind)]
        return Truth(task, slots["v"], None, owners[0].name) if owners else None
    if task in ("attribute", "composed"):
        subject = slots["s" if task == "attribute" else "c"]
        place = find_place(subject) if task == "attribute" else find_city(subject).place
        if name not in place.attributes or kind not in (None, place.kind):
            return None
        return Truth(task, subject, place.name if task == "composed" else None, place.attributes[name])
    return _opposite(task.removeprefix("antonym "), slots["w"])


def _opposite(language: str, word: str) -> Truth | None:
    """The opposite of a word; the concept in between is the opposite's English word."""
    for pair in antonyms():
        for side in range(2):
            if pair.words[language][side] == word:
                return Truth("antonym", word, pair.words["english"][1 - side], pair.words[language][1 - side])
    return None


def _all_places() -> list[geography.Place]:
    return [*places("state"), *places("country")]


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Every template up to its answer as a regular expression with the slots as groups."""
    everywhere = _all_places()
    labels = {geography.LABELS.get(name, name) for place in everywhere for name in place.attributes}
    capitals = [place.capital for place in everywhere]
    groups = {
        "c": [city.name for city in cities()] + capitals,
        "s": [place.name for place in everywhere],
        "v": capitals,
        "k": ["state", "country"],
        "a": sorted(labels),
        "the": ["the ", ""],
    }
    tasks = [(task, template) for task, templates in TASKS.items() for template in templates]
    tasks += [(f"antonym {language}", template) for language, templates in ANTONYM.items() for template in templates]
    return [(task, _pattern(template, groups)) for task, template in tasks]


def _pattern(template: str, groups: dict[str, list[str]]) -> re.Pattern[str]:
    text = template.split("{answer}")[0].rstrip(" ")
    pieces = []
    for piece in re.split(r"(\{\w+\})", text):
        slot = piece[1:-1] if piece.startswith("{") else None
        if slot == "the":
            pieces.append("(?: ?the)?")
        elif slot == "w":
            pieces.append(r'(?P<w>[^"]+)')
        elif slot:
            values = "|".join(re.escape(value) for value in sorted(groups[slot], key=len, reverse=True))
            pieces.append(f"(?P<{slot}>{values})")
        else:
            pieces.append("".join(_either(letter, first=not pieces and not at) for at, letter in enumerate(piece)))
    return re.compile("".join(pieces).replace(r"\ (?: ?the)?", r"(?:\ the)?"))


def _either(letter: str, first: bool) -> str:
    """A letter as a pattern; a template's first one in upper or lower case."""
    return f"[{letter.upper()}{letter}]" if first and letter.isalpha() else re.escape(letter)
