"""Sentences about words: opposites and translations in three languages, plurals, agreement, numbers, colors, family.

Opposites and translations are facts that a model has to learn by heart, so they have no held-out half; agreement has
one. This file must not know how sentences become tokens.
"""

from collections.abc import Mapping
from functools import cache
from random import Random

from glassworks.smallworld.document import Document, fill, in_split
from glassworks.smallworld.facts import antonyms, lists, table

LANGUAGES = ("english", "french", "spanish")
ANTONYM: Mapping[str, tuple[str, ...]] = {
    "english": ('the opposite of "{w}" is "{answer}".', '"{w}" is the opposite of "{answer}".'),
    "french": ('le contraire de "{w}" est "{answer}".', '"{w}" est le contraire de "{answer}".'),
    "spanish": ('el contrario de "{w}" es "{answer}".', '"{w}" es el contrario de "{answer}".'),
}
TRANSLATION = (
    'the {x} word "{w}" in {y} is "{answer}".',
    'the {y} word for the {x} word "{w}" is "{answer}".',
    '"{w}" is {x}, and in {y} it is "{answer}".',
)
PLURAL = (
    "the plural of {w} is {answer}.",
    "one {w}, two {answer}.",
    "not one {w}, but many {answer}.",
)
NEXT_NUMBER = {
    "english": 'after "{w}" comes "{answer}".',
    "french": 'après "{w}" vient "{answer}".',
    "spanish": 'después de "{w}" viene "{answer}".',
}
COLOR = ('the color of {w} is "{answer}".', 'the color that {w} has is "{answer}".')
OWNERS = ("my", "your", "his", "her", "our", "their")
FAMILY = ("the {x} of {o} {y} is {o} {answer}.", "{o} {y}'s {x} is {o} {answer}.")
BETWEEN = ("", "near the {n} ", "behind the {n} ", "next to the {n} ", "to the {n} ", "with the {n} ")
CLAUSES = ("that the {p} likes ", "that the {q} like ")


def antonym(random: Random, split: str) -> Document:
    """Name the opposite of a word, in the language of the sentence."""
    language, side = random.choice(LANGUAGES), random.randrange(2)
    pair = random.choice(antonyms()).words[language]
    return fill("antonym", random.choice(ANTONYM[language]), w=pair[side], answer=pair[1 - side])


def translation(random: Random, split: str) -> Document:
    """Say a word in another language."""
    source, target = random.sample(LANGUAGES, 2)
    words = random.choice(concepts())
    slots = {"x": source.capitalize(), "y": target.capitalize(), "w": words[source], "answer": words[target]}
    return fill("translation", random.choice(TRANSLATION), **slots)


@cache
def concepts() -> tuple[Mapping[str, str], ...]:
    """Return every concept that has a word in each language: language -> word."""
    words_of = [
        {language: words[side] for language, words in pair.words.items()} for pair in antonyms() for side in range(2)
    ]
    for name in ("nouns", "numbers", "colors"):
        key = "singular" if name == "nouns" else "english"
        words_of += [{"english": row[key], "french": row["french"], "spanish": row["spanish"]} for row in table(name)]
    return tuple({words["english"]: words for words in words_of}.values())


def plural(random: Random, split: str) -> Document:
    """Form the plural of an English noun."""
    noun = random.choice(table("nouns"))
    return fill("plural", random.choice(PLURAL), w=noun["singular"], answer=noun["plural"])


def words(random: Random, split: str) -> Document:
    """Say a small fact: the number after a number, the color of a thing, the name of a relative."""
    kind = random.randrange(3)
    if kind == 0:
        language, index = random.choice(LANGUAGES), random.randrange(len(table("numbers")) - 1)
        one, next_one = table("numbers")[index][language], table("numbers")[index + 1][language]
        return fill("words", NEXT_NUMBER[language], w=one, answer=next_one)
    if kind == 1:
        color = random.choice([row for row in table("colors") if row["things"]])
        thing = random.choice(color["things"].split(";"))
        return fill("words", random.choice(COLOR), w=thing, answer=color["english"])
    row = random.choice(table("family"))
    slots = {"x": row["relative"], "y": row["of"], "answer": row["is"], "o": random.choice(OWNERS)}
    return fill("words", random.choice(FAMILY), **slots)


def agreement(random: Random, split: str) -> Document:
    """Give a verb the number of its subject, with another noun between the two."""
    forms = ("singular", "plural")
    while True:
        head, other = random.choice(table("nouns")), random.choice(table("nouns"))
        number, person = random.randrange(2), random.choice(lists()["persons"]).split("|")
        between = random.choice(BETWEEN + CLAUSES)
        slots = {"n": other[random.choice(forms)], "p": person[0], "q": person[1]}
        subject = f"the {head[forms[number]]} {between}".format(**slots)
        if in_split(subject, split):
            *verb, tail = random.choice(lists()["verbs"]).split("|")
            return fill("agreement", subject + "{answer} " + tail + ".", answer=verb[number])
