"""The true facts of the small world, read from the tables in `data/`.

Everything that the models can know is written there, reviewed by hand, so that a claim about a circuit can be
checked against an answer. A name stands for one place only: a city whose name also belongs to another place of the
tables is left out, and so is what has no one answer (the main language of Belgium, the continent of Turkey). "City"
means any populated place. A `*` behind a city marks it as held out: it never occurs in a composed (two-hop) sentence
of the training corpus. This file knows no model or sentence.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from glassworks.errors import NotFound

DATA = Path(__file__).parent / "data"
KINDS = ("state", "country")


@dataclass(frozen=True)
class Place:
    """A state or a country with its attributes and the names of its cities."""

    name: str
    kind: str
    attributes: Mapping[str, str]
    cities: tuple[str, ...]

    @property
    def capital(self) -> str:
        """The capital's name."""
        return self.attributes["capital"]


@dataclass(frozen=True)
class City:
    """A city, the place that it lies in, and whether it is kept out of composed training sentences."""

    name: str
    place: Place
    held_out: bool


@dataclass(frozen=True)
class Antonyms:
    """A pair of opposites in English, French and Spanish; `words[language]` is the pair in that language."""

    words: Mapping[str, tuple[str, str]]


@cache
def _geography() -> tuple[dict[str, Place], dict[str, City]]:
    places: dict[str, Place] = {}
    cities: dict[str, City] = {}
    for kind, name in zip(KINDS, ("states", "countries"), strict=True):
        for row in map(dict, table(name)):
            marked = row.pop("cities").split(";")
            place_name = row.pop(kind)
            attributes = {key: value for key, value in row.items() if value}
            place = Place(place_name, kind, attributes, tuple(city.removesuffix("*") for city in marked))
            places[place_name] = place
            for city in marked:
                plain = city.removesuffix("*")
                cities[plain] = City(plain, place, held_out=city.endswith("*"))
    return places, cities


def states() -> list[Place]:
    """Return the 50 states of the USA (attributes: abbreviation, capital, region)."""
    return list(places("state"))


def countries() -> list[Place]:
    """Return 48 countries (attributes: capital, language, currency, continent, demonym; unclear ones are absent)."""
    return list(places("country"))


@cache
def places(kind: str) -> tuple[Place, ...]:
    """Return all places of one kind.

    Args:
        kind: "state" or "country".

    Raises:
        NotFound: if the kind is another one.
    """
    if kind not in KINDS:
        raise NotFound(f"There is no kind of place {kind!r}: use one of {', '.join(KINDS)}.")
    return tuple(place for place in _geography()[0].values() if place.kind == kind)


def cities() -> list[City]:
    """Return all cities (capitals are not among them), in the order of the tables."""
    return list(_geography()[1].values())


def held_out() -> frozenset[str]:
    """Return the names of the cities that never occur in a composed sentence of the training corpus."""
    return frozenset(city.name for city in cities() if city.held_out)


def find_place(name: str) -> Place:
    """Return the state or country of that name.

    Raises:
        NotFound: if the world has no such place.
    """
    places, _ = _geography()
    if name not in places:
        raise NotFound(f"The small world has no state or country {name!r}: see `states()` and `countries()`.")
    return places[name]


def find_city(name: str) -> City:
    """Return the city of that name; a capital counts as a city of its place.

    Raises:
        NotFound: if the world has no such city.
    """
    places, cities = _geography()
    if name in cities:
        return cities[name]
    for place in places.values():
        if place.capital == name:
            return City(name, place, held_out=False)
    raise NotFound(f"The small world has no city {name!r}: see `cities()`.")


@cache
def antonyms() -> tuple[Antonyms, ...]:
    """Return the pairs of opposites, each in three languages."""
    languages = ("english", "french", "spanish")
    return tuple(
        Antonyms({language: (row[language], row[f"{language}_opposite"]) for language in languages})
        for row in table("antonyms")
    )


@cache
def table(name: str) -> tuple[Mapping[str, str], ...]:
    """Return the rows of one of the tables in `data/`, as column -> value."""
    with open(DATA / f"{name}.csv", encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


@cache
def lists() -> Mapping[str, tuple[str, ...]]:
    """Return the named lists of words (names, objects, venues, verbs, ...) from which sentences are filled."""
    lines = (DATA / "lists.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(": ", 1) for line in lines if line and not line.startswith("#"))
    return {name: tuple(items.split(";")) for name, items in pairs}


@cache
def prose() -> tuple[str, ...]:
    """Return the templates of plain sentences, with {slots} named after lists."""
    lines = (DATA / "prose.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))
