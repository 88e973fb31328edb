"""Ground truth: every generated prompt of a known form is understood, and nothing else is."""

import pytest

from glassworks import smallworld
from glassworks.errors import NotFound
from glassworks.smallworld import Truth, truth

UNDERSTOOD = ("location", "attribute", "reverse", "composed", "antonym")


@pytest.mark.parametrize("task", UNDERSTOOD)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_prompts_of_the_corpus_are_understood(task, split):
    for document in smallworld.generate(task, 300, 11, split):
        if document.spans:
            found = truth(document.prompt)
            assert (found.task, found.answer) == (task, document.answer), document.text


def test_composed_prompts_have_an_intermediate_concept():
    assert truth("The capital of the state containing Dallas is") == Truth("composed", "Dallas", "Texas", "Austin")
    assert truth("Fact: the currency of the country containing Osaka is the").intermediate == "Japan"
    assert truth('Le contraire de "petit" est "') == Truth("antonym", "petit", "big", "grand")
    assert truth("The capital of Texas is").intermediate is None


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Once upon a time",
        "The capital of the country containing Dallas is",
        "The capital of the state containing Atlantis is",
        "The main language of Belgium is",
        'The opposite of "zebra" is "',
    ],
)
def test_other_prompts_are_refused(prompt):
    with pytest.raises(NotFound, match="containing Dallas is"):
        truth(prompt)


def test_swaps_have_two_different_answers_and_begin_in_their_split():
    pairs = smallworld.swaps(count=50)
    assert pairs == smallworld.swaps(count=50)
    for pair in pairs:
        one, other = truth(pair.prompt), truth(pair.other_prompt)
        assert one.subject in smallworld.held_out()
        assert (one.answer, other.answer) == (pair.answer, pair.other_answer)
        assert one.intermediate != other.intermediate
