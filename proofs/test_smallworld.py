"""The embedded default does what its card says: accuracies, a real circuit, features that can be swapped."""

import json
from random import Random
from statistics import fmean

import pytest

import glassworks as gw
from glassworks import experiments, hub, smallworld, studies
from recipes.smallworld import AIMS, BASES, CHAT_AIMS, world_text

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
    measured, metrics = found["measured"], found["scope"]
    coders = {name: shortened(each) for name, each in metrics["coders"].items()}
    keep("smallworld", found | {"scope": metrics | {"coders": coders}})
    assert not {name: measured[name] for name, aim in AIMS.items() if measured[name] < aim}
    assert measured["state_in_embedding"] <= 0.05
    assert found["patch_flips"] >= 0.9
    assert metrics["recovered"] >= 0.9
    assert metrics["recovered_answers"] >= 0.9
    assert found["swap_flips"] >= 0.9
    assert found["random_flips"] <= 0.02
    assert found["silenced"] * 5 <= found["random_silenced"]


@pytest.mark.parametrize("name", hub.embedded("model"))
def test_the_family_does_what_its_cards_say(name, keep):
    model = gw.load_model(name)
    found: dict = {"measured": studies.measure(model, 1000)}
    if name in BASES:
        found["chat"] = studies.interview(model, 1000)
    card = json.loads((hub.resolve(name) / "card.json").read_text(encoding="utf-8"))
    keep(name, found | {"missed_aims": card["missed_aims"]})
    shares = found["measured"] | found.get("chat", {})
    aims = AIMS | (CHAT_AIMS if "chat" in found else {})
    assert {aim for aim in aims if shares[aim] < aims[aim]} <= set(card["missed_aims"])


@pytest.mark.parametrize("name", hub.embedded("scope"))
def test_every_scope_passes_its_gates(name, keep):
    model, scope = gw.load_model(name), gw.load_scope(name)
    documents, answers = world_text(model, 2500, "held_out", 77)
    found = experiments.evaluate(model, scope, documents, answers)
    coders = {each: shortened(facts) for each, facts in found["coders"].items()}
    keep(f"{name}-scope", {"coders": coders, "sets": found["sets"]})
    wrong = {}
    for entry in scope.entries:
        facts, (fvu, l0) = found["coders"][entry.name], gate(entry)
        l0 *= len(scope[entry.name].parts)  # a joint coder's counts the latents of all its parts
        if facts["fvu"] > fvu or facts["l0"] > l0 or facts["dead"] > MOST_DEAD:
            wrong[entry.name] = (facts["fvu"], facts["l0"], facts["dead"])
    assert wrong == {}
    assert found["recovered"] >= 0.9
    assert found["recovered_answers"] >= 0.9
    if "clt" in scope:
        assert found["coders"]["clt"]["loss"]["recovered"] >= 0.9


GATES = {"transcoder": (0.10, 24), "clt": (0.10, 24), "sae": (0.05, 32), "crosscoder": (0.10, 32)}
MLP = (0.06, 32)
"""Largest FVU and L0 by kind of coder, and of SAEs on MLP outputs."""
MOST_DEAD = 0.05


def gate(entry):
    return MLP if entry.kind == "sae" and entry.writes[0].kind == "mlp_out" else GATES[entry.kind]


def test_matched_features_leave_the_answers_of_all_cities(model, scope, keep):
    cities, random = studies.Cities.of(model), Random(0)
    clean, ablated, unchanged = [], [], []
    for row in cities.held_out.nonzero()[:, 0]:
        place, rows = smallworld.states()[int(cities.places[row])], row[None]
        if cities.answers(rows) != cities.capitals[cities.places[rows]]:
            continue
        graph = gw.trace(model, scope, cities.tokens[row])
        features = graph.find(place.name)
        clean.append(float(cities.probability(rows)))
        with model.edit(gw.ablate(features)):
            ablated.append(float(cities.probability(rows)))
        for _ in range(5):
            with model.edit(gw.ablate(graph.matched(features, random))):
                unchanged.append(bool(cities.answers(rows) == cities.capitals[cities.places[rows]]))
    found = {"cities": len(clean), "clean": fmean(clean), "ablated": fmean(ablated), "unchanged": fmean(unchanged)}
    keep("cities", found | {"draws": len(unchanged)})
    assert found["ablated"] < 0.6 * found["clean"]
    assert found["unchanged"] >= 0.95


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
    assert swapped == "Sacramento"


def shortened(facts: dict) -> dict:
    """A coder's figures, without histograms and strata."""
    return {each: facts[each] for each in ("fvu", "median", "cosine", "l0", "dead", "dense", "tokens")}


def probability(model, token: str) -> float:
    return next((each.probability for each in model.predict(PROMPT, k=2000) if each.token.strip() == token), 0.0)
