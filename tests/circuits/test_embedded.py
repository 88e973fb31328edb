"""Traces of the embedded model: the laws on trained weights, and the story that it is known to tell."""

import pytest

from glassworks import smallworld
from glassworks.circuits import Path, trace
from glassworks.coders import load_scope
from glassworks.hub import embedded
from glassworks.models import Model, load_model
from tests.circuits.tiny import random_scope

SENTENCES = 12


@pytest.fixture(scope="module")
def world() -> Model:
    return load_model("smallworld")


def test_every_row_sums_up_on_trained_weights(world):
    scope = random_scope(world)
    for task in ("location", "antonym", "copying"):
        (document,) = smallworld.generate(task, 1, 0)
        graph = trace(world, scope, document.prompt)
        assert graph.conservation.mean() <= 1e-5
        assert graph.conservation.max() <= 1e-4


def tells(path: Path, truth: smallworld.Truth) -> bool:
    """Whether a path leads from the subject to the answer, through features labelled with what is between."""
    first, *between, last = (step.name for step in path.steps)
    words = [word for word in (truth.intermediate, truth.answer) if word]
    named = any(word in name for name in between for word in words)
    return named and (first.strip(), last.strip()) == (truth.subject, truth.answer)


@pytest.mark.slow
def test_two_hops_go_through_the_concept_between(world):
    if not embedded("scope"):
        pytest.skip("no scope is embedded yet")
    scope = load_scope("smallworld")
    told = 0
    prompts = [document.prompt for document in smallworld.generate("composed", SENTENCES, 0)]
    for prompt in prompts:
        truth = smallworld.truth(prompt)
        graph = trace(world, scope, prompt)
        assert graph.conservation.mean() <= 1e-5
        assert graph.conservation.max() <= 1e-4
        assert graph.replacement >= 0.4
        told += any(tells(path, truth) for path in graph.paths(5))
    assert told >= 3 * SENTENCES // 4
