"""Ground truth: the embedded model's circuit is real, and edits of its features move it."""

import pytest
import torch

import glassworks as gw
from glassworks import smallworld, studies
from glassworks.errors import BadInput, NotFound


@pytest.fixture(scope="module")
def model():
    return gw.load_model("smallworld")


@pytest.fixture(scope="module")
def cities(model):
    return studies.Cities.of(model)


@pytest.fixture(scope="module")
def swaps(cities):
    return studies.Swaps.of(cities, gw.load_scope("smallworld"))


def test_prompts_differ_at_the_city_alone(cities, model):
    differ = (cities.tokens != cities.tokens[0]).any(0).nonzero()[:, 0].tolist()
    assert differ == [cities.position]
    assert [model.token_text(i).strip() for i in cities.tokens[:5, cities.position].tolist()] == list(cities.names[:5])
    assert set(cities.held_out.tolist()) == {True, False}


def test_cities_are_held_out_as_the_world_says(cities):
    held = {name for name, out in zip(cities.names, cities.held_out.tolist(), strict=True) if out}
    assert held == {city.name for city in smallworld.cities() if city.held_out and city.place.kind == "state"}


def test_partners_are_of_other_places(cities):
    rows = torch.arange(len(cities.names))
    partners = cities.partners(rows)
    assert not bool((cities.places[partners] == cities.places[rows]).any())
    assert torch.equal(partners, cities.partners(rows))


def test_the_model_composes_what_it_never_saw_composed(cities):
    assert studies.accuracy(cities, held_out=True) >= 0.95
    assert studies.accuracy(cities, held_out=False) >= 0.98


def test_patching_the_city_flips_the_answer(cities):
    assert studies.patch_flips(cities) >= 0.9


@pytest.mark.slow
def test_swapped_features_flip_the_answer_and_random_ones_do_not(swaps):
    assert swaps.flips(most=8, draws=1) >= 0.9
    assert swaps.flips(most=8, draws=1, control=True) <= 0.02


def test_a_swap_edits_at_most_so_many_features(swaps):
    edit = swaps.edit(0, 1, most=3)
    cells: dict[tuple, int] = {}
    for ref in edit.target.refs:
        cells[ref.coder_id, ref.position] = cells.get((ref.coder_id, ref.position), 0) + 1
    assert max(cells.values()) <= 3
    assert min(position for _, position in cells) == swaps.cities.position


def test_means_do_not_use_held_out_cities(cities, swaps):
    name = swaps.scope.replacement[0]
    coder = swaps.scope[name]
    rows = ((cities.places == 3) & ~cities.held_out).nonzero()[:, 0]
    value = cities.model.capture(cities.tokens[rows], [name])[name]
    torch.testing.assert_close(swaps.means[name][3], coder.encode(value).dense().mean(0))


def test_places_are_found_by_name(cities):
    place = smallworld.states()[7]
    assert cities.place(place.name) == 7
    with pytest.raises(NotFound):
        cities.place("Atlantis")


def test_a_model_that_splits_names_is_refused(data):
    with pytest.raises(BadInput, match="one token a city"):
        studies.Cities.of(gw.load_model(data / "models" / "stories260K"))
