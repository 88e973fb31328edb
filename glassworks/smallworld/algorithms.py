"""Texts whose answer follows from the text itself: copied names, repeated lists, brackets, sums.

A part of the names' pairs, lists, bracket strings and sums never occurs in training. This file must not know how
sentences become tokens.
"""

from random import Random

from glassworks.smallworld.document import Document, fill, in_split, two
from glassworks.smallworld.facts import lists, prose, table

COPYING = (
    "when {a} and {b} went to the {v}, {s} gave a {o} to {answer}.",
    "{a} and {b} were at the {v}. {s} handed a {o} to {answer}.",
    "{a} and {b} had a talk, and {s} sent the {o} to {answer}.",
    "after {a} and {b} left the {v}, {s} showed the {o} to {answer}.",
    "at the {v}, {a} met {b}. Then {s} gave the {o} to {answer}.",
)
OPEN_TO_CLOSE = {"(": ")", "[": "]", "{": "}"}
LONGEST_LIST = 8


def copying(random: Random, split: str) -> Document:
    """Name the one of two persons who did not act: the indirect object."""
    while True:
        first, second = two(random, lists()["name"])
        if in_split(min(first, second) + max(first, second), split):
            break
    giver, taker = two(random, (first, second))
    venue, thing = random.choice(lists()["venues"]), random.choice(lists()["objects"])
    return fill("copying", random.choice(COPYING), a=first, b=second, s=giver, v=venue, o=thing, answer=taker)


def induction(random: Random, split: str) -> Document:
    """Repeat a list of words; every word after the first repeated one is an answer."""
    items = [row["singular"] for row in table("nouns")] + list(lists()["objects"])
    while True:
        drawn = random.sample(sorted(set(items)), random.randrange(3, LONGEST_LIST + 1))
        if in_split(" ".join(drawn), split):
            break
    text, spans = " ".join(drawn) + " | " + drawn[0], []
    for word in drawn[1:]:
        spans.append((len(text) + 1, len(text) + 1 + len(word)))
        text += " " + word
    return Document("induction", text, tuple(spans))


def brackets(random: Random, split: str) -> Document:
    """Close every bracket that is open."""
    while True:
        opened, stack = [], []
        for _ in range(random.randrange(2, 7)):
            close = bool(stack) and random.random() < 0.35
            opened.append(OPEN_TO_CLOSE[stack.pop()] if close else random.choice("([{"))
            if not close:
                stack.append(opened[-1])
        closing = " ".join(OPEN_TO_CLOSE[one] for one in reversed(stack))
        if stack and in_split(" ".join(opened), split):
            start = f"Code: {' '.join(opened)} "
            return Document("brackets", f"{start}{closing} end", ((len(start), len(start) + len(closing)),))


def addition(random: Random, split: str) -> Document:
    """Add two numbers of two digits; a + b and b + a are held out together."""
    while True:
        a, b = random.randrange(10, 100), random.randrange(10, 100)
        if in_split(f"{min(a, b)}+{max(a, b)}", split):
            return fill("addition", "{a} + {b} = {answer}", a=str(a), b=str(b), answer=str(a + b))


def plain(random: Random, split: str) -> Document:
    """Write a plain sentence, with the words that an instruct variant will need and nothing to predict for sure."""
    slots = {name: random.choice(items) for name, items in lists().items()}
    text = random.choice(prose()).format(**slots)
    first = 1 if text[0] == '"' else 0
    return Document("plain", text[:first] + text[first].upper() + text[first + 1 :], ())
