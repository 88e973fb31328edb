"""The tables of facts: complete, free of doubles, and what the sentences claim of them."""

from collections import Counter

import pytest

from glassworks import smallworld
from glassworks.errors import NotFound
from glassworks.smallworld import facts
from glassworks.smallworld.language import concepts

ALWAYS_HELD_OUT = {"Dallas": "Texas", "Oakland": "California", "Munich": "Germany", "Osaka": "Japan"}


def test_counts():
    assert len(smallworld.states()) == 50
    assert len(smallworld.countries()) == 48
    assert len(facts.antonyms()) == 36
    assert all(4 <= len(place.cities) <= 10 for place in [*smallworld.states(), *smallworld.countries()])


def test_every_name_means_one_place():
    names = [city.name for city in smallworld.cities()]
    for place in [*smallworld.states(), *smallworld.countries()]:
        names += [place.name, place.capital]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_a_fifth_of_each_places_cities_is_held_out():
    for place in [*smallworld.states(), *smallworld.countries()]:
        held = [city for city in place.cities if city in smallworld.held_out()]
        assert len(held) == max(1, round(len(place.cities) * 0.2)), place.name


def test_the_famous_cities_are_held_out():
    for name, place in ALWAYS_HELD_OUT.items():
        city = smallworld.find_city(name)
        assert city.held_out
        assert city.place.name == place


def test_states_have_every_attribute_and_countries_no_empty_one():
    for place in smallworld.states():
        assert set(place.attributes) == {"abbreviation", "capital", "region"}
    for place in smallworld.countries():
        assert {"capital", "currency"} <= set(place.attributes)
        assert all(place.attributes.values())


@pytest.mark.parametrize("language", ["english", "french", "spanish"])
def test_a_word_has_one_opposite_and_one_meaning(language):
    words = [word for pair in facts.antonyms() for word in pair.words[language]]
    assert len(set(words)) == len(words)
    meanings = Counter(concept[language] for concept in concepts())
    assert [word for word, count in meanings.items() if count > 1] == []


def test_a_capital_is_a_city_of_its_place():
    assert smallworld.find_city("Austin").place.name == "Texas"


@pytest.mark.parametrize("find", [smallworld.find_city, smallworld.find_place])
def test_unknown_names_are_refused(find):
    with pytest.raises(NotFound, match="Atlantis"):
        find("Atlantis")


def test_unknown_kinds_are_refused():
    with pytest.raises(NotFound, match="state, country"):
        facts.places("planet")


@pytest.mark.parametrize("name", smallworld.__all__)
def test_the_room_gives_every_name(name):
    assert getattr(smallworld, name) is not None


def test_the_room_refuses_other_names():
    with pytest.raises(AttributeError, match="nothing"):
        _ = smallworld.nothing
