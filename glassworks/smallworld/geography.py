"""Sentences about places: one hop (look a fact up) and two hops (look up, move, look up again).

The composed sentences of the training split never name a held-out city, so an answer about one of those can only come
from composing two facts that were learned apart. This file must not know how sentences become tokens.
"""

from collections.abc import Mapping
from random import Random

from glassworks.smallworld.document import OPENINGS, Document, fill, in_split, opened
from glassworks.smallworld.facts import City, Place, find_city, places

STATES_SHARE = 0.6
CAPITAL_SHARE = 0.4
ARTICLES = {"currency": "the ", "region": "the "}
LABELS = {"language": "main language"}

SHORT_LOCATION = "{c} is in {answer}."  # a composed form begins alike: "Austin is in a state with ..."
LOCATION = (
    "{c} is a city in the {k} of {answer}.",
    "{c} is located in the {k} of {answer}.",
    "the {k} containing {c} is {answer}.",
    "the {k} where {c} is located is {answer}.",
    "the {k} that contains {c} is {answer}.",
    SHORT_LOCATION,
    "the city of {c} lies in {answer}.",
    "{c} belongs to {answer}.",
    "the home {k} of {c} is {answer}.",
    "what {k} is {c} in? It is in {answer}.",
    "which {k} contains {c}? It is {answer}.",
)
CITY_OF = ("one city in {s} is {c}.", "a city in the {k} of {s} is {c}.")
ATTRIBUTE = (
    "the {a} of {s} is {the}{answer}.",
    "the {a} of the {k} of {s} is {the}{answer}.",
    "the {k} of {s} has as its {a} {the}{answer}.",
    "for {s}, the {a} is {the}{answer}.",
    "{s}: {a} = {answer}.",
    "what is the {a} of {s}? It is {the}{answer}.",
)
ATTRIBUTE_DEMONYM = ("people from {s} are {answer}.", "what are people from {s} called? They are {answer}.")
CAPITAL_OF = ("{v} is the capital of {answer}.", "the {k} whose capital is {v} is {answer}.")
COMPOSED = (
    "the {a} of the {k} containing {c} is {the}{answer}.",
    "the {a} of the {k} where {c} is located is {the}{answer}.",
    "the {a} of the {k} that contains {c} is {the}{answer}.",
    "{c} is a city of a {k} whose {a} is {the}{answer}.",
    "the home {k} of {c} has as its {a} {the}{answer}.",
    "for the {k} of {c}, the {a} is {the}{answer}.",
    "{c} is in a {k} with the {a} {answer}.",
    "what is the {a} of the {k} containing {c}? It is {the}{answer}.",
)
COMPOSED_DEMONYM = (
    "people from the {k} containing {c} are {answer}.",
    "what are people from the {k} containing {c} called? They are {answer}.",
)


def location(random: Random, split: str) -> Document:
    """Say in which state or country a city lies."""
    while True:
        place = _place(random)
        template, city = random.choice(LOCATION), random.choice((*place.cities, place.capital))
        if in_split(template + city, split):
            document = fill("location", template, c=city, k=place.kind, answer=place.name)
            return opened(document, random.choice(OPENINGS))


def attribute(random: Random, split: str) -> Document:
    """Say an attribute of a state or country: its capital, language, currency, ..."""
    while True:
        place, name = _place_and_attribute(random)
        template = random.choice(ATTRIBUTE_DEMONYM if name == "demonym" else ATTRIBUTE)
        if in_split(template + name + place.name, split):
            return opened(_attribute(template, place, name), random.choice(OPENINGS))


def reverse(random: Random, split: str) -> Document:
    """Name the place that a capital belongs to, or (without a sure answer) some city of a place."""
    while True:
        place = _place(random)
        if random.random() < 0.6:
            template = random.choice(CAPITAL_OF)
            if in_split(template + place.name, split):
                return fill("reverse", template, v=place.capital, k=place.kind, answer=place.name)
        elif split == "train":
            template = random.choice(CITY_OF)
            text = template.format(s=place.name, k=place.kind, c=random.choice(place.cities))
            return Document("reverse", text[0].upper() + text[1:], ())


def composed(random: Random, split: str) -> Document:
    """Say an attribute of the place that contains a city: held-out cities in the held-out split, others in training."""
    while True:
        place, name = _place_and_attribute(random)
        city = find_city(random.choice(place.cities))
        if city.held_out == (split == "held_out"):
            template = random.choice(COMPOSED_DEMONYM if name == "demonym" else COMPOSED)
            return opened(compose(template, city, name), random.choice(OPENINGS))


def compose(template: str, city: City, name: str) -> Document:
    """Fill a composed template with a city and the name of an attribute of its place."""
    return fill("composed", template, c=city.name, **_slots(city.place, name))


def two_hop_prompts(split: str, attribute: str = "capital", kind: str = "state") -> list[Document]:
    """Return "The capital of the state containing Dallas is Austin." for every city of a split.

    Args:
        split: "train" for cities that occur in composed training sentences, "held_out" for the others.
        attribute: which attribute of the place is the answer; places without it are left out.
        kind: "state" or "country".
    """
    in_split("", split)  # refuses other splits
    names = [name for place in places(kind) if attribute in place.attributes for name in place.cities]
    cities = [find_city(name) for name in names]
    return [compose(COMPOSED[0], city, attribute) for city in cities if city.held_out == (split == "held_out")]


def _attribute(template: str, place: Place, name: str) -> Document:
    return fill("attribute", template, s=place.name, **_slots(place, name))


def _slots(place: Place, name: str) -> Mapping[str, str]:
    label, article = LABELS.get(name, name), ARTICLES.get(name, "")
    return {"a": label, "k": place.kind, "the": article, "answer": place.attributes[name]}


def _place(random: Random) -> Place:
    return random.choice(places("state" if random.random() < STATES_SHARE else "country"))


def _place_and_attribute(random: Random) -> tuple[Place, str]:
    place = _place(random)
    if random.random() < CAPITAL_SHARE:
        return place, "capital"
    return place, random.choice(list(place.attributes))
