"""The embedded default does what its card says: accuracies, a real circuit, features that can be swapped."""

from random import Random

import pytest

import glassworks as gw
from glassworks import smallworld, studies

PROMPT = "The capital of the state containing Dallas is"
DRAWS = 100


@pytest.fixture(scope="module")
def model():
    return gw.load_model("smallworld")


@pytest.fixture(scope="module")
def scope():
    return gw.load_scope("smallworld")


def test_the_model_and_its_scope_reach_their_aims(keep):
    found = studies.check("smallworld", 1000)
    keep("smallworld", found)
    measured, metrics = found["measured"], found["scope"]
    assert not {name: measured[name] for name, aim in smallworld.AIMS.items() if measured[name] < aim}
    assert measured["state_in_embedding"] <= 0.05
    assert found["patch_flips"] >= 0.9
    assert all(each["fvu"] <= 0.10 and each["l0"] <= 24 and each["dead"] <= 0.10 for each in metrics["coders"].values())
    assert metrics["recovered"] >= 0.9
    assert metrics["recovered_answers"] >= 0.9
    assert found["swap_flips"] >= 0.9
    assert found["random_flips"] <= 0.02


def test_the_path_goes_through_the_state(model, scope, keep):
    graph = gw.trace(model, scope, PROMPT)
    texas = graph.find("Texas")
    clean = probability(model, "Austin")
    with model.edit(gw.ablate(texas)):
        ablated = probability(model, "Austin")
    random, unchanged = Random(0), 0
    for _ in range(DRAWS):
        with model.edit(gw.ablate(graph.matched(texas, random))):
            unchanged += model.predict(PROMPT, k=1)[0].token.strip() == "Austin"
    swaps = studies.Swaps.of(studies.Cities.of(model), scope)
    with model.edit(swaps.edit(swaps.cities.place("Texas"), swaps.cities.place("California"))):
        swapped = model.predict(PROMPT, k=1)[0].token.strip()
    keep(
        "dallas",
        {
            "probability": clean,
            "replacement": graph.replacement,
            "completeness": graph.completeness,
            "conservation": float(graph.conservation.max()),
            "paths": [str(path) for path in graph.paths(5)],
            "texas_features": len(texas.features),
            "probability_without_texas": ablated,
            "draws_of_random_features_that_leave_the_answer": [unchanged, DRAWS],
            "with_california": swapped,
        },
    )
    assert clean > 0.5
    assert graph.replacement >= 0.5
    assert ablated * 5 <= clean
    assert unchanged >= 95
    assert swapped == "Sacramento"


def probability(model, token: str) -> float:
    return next((each.probability for each in model.predict(PROMPT, k=2000) if each.token.strip() == token), 0.0)
