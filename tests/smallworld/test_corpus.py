"""The corpus: the same seed gives the same documents, splits do not mix, and answers are where they are said to be."""

import re
from itertools import islice

import pytest

from glassworks import smallworld
from glassworks.errors import BadInput, NotFound
from glassworks.smallworld.document import Document, fill, in_split, joined, opened
from glassworks.smallworld.facts import prose
from glassworks.smallworld.geography import CITY_OF, COMPOSED

SPLIT_BY_TEXT = ("induction", "brackets", "addition")


@pytest.fixture(scope="module")
def training() -> list[Document]:
    return list(islice(smallworld.stream(7, 0), 5_000))


@pytest.mark.slow
def test_no_held_out_city_in_a_composed_training_sentence(training):
    held = re.compile(r"\b(" + "|".join(map(re.escape, sorted(smallworld.held_out()))) + r")\b")
    one_hop = re.compile("|".join(_as_pattern(template) for template in (*_location(), *CITY_OF)), re.IGNORECASE)
    composed = smallworld.generate("composed", 20_000, 7, "train")
    composed += [document for document in training if document.task == "passage"]
    for document in composed:
        rest = one_hop.sub("", document.text) if document.task == "passage" else document.text
        assert not held.search(rest), document.text


def _location() -> tuple[str, ...]:
    from glassworks.smallworld.geography import LOCATION

    return LOCATION


def _as_pattern(template: str) -> str:
    return re.sub(r"\\\{\w+\\\}", "[A-Z][\\\\w ]+", re.escape(template))


def test_every_task_occurs(training):
    assert {document.task for document in training} == {*smallworld.TASKS, "passage"}


@pytest.mark.parametrize("task", smallworld.TASKS)
def test_the_same_seed_gives_the_same_documents(task):
    first = smallworld.generate(task, 20, seed=3, split="train")
    assert first == smallworld.generate(task, 20, seed=3, split="train")
    assert first != smallworld.generate(task, 20, seed=4, split="train")


def test_parts_of_a_stream_differ_and_repeat():
    one, again = (list(islice(smallworld.stream(0, 5), 50)) for _ in range(2))
    assert one == again
    assert one != list(islice(smallworld.stream(0, 6), 50))


@pytest.mark.parametrize("task", SPLIT_BY_TEXT)
def test_held_out_prompts_never_occur_in_training(task, training):
    held = {document.prompt for document in smallworld.generate(task, 300, 1, "held_out")}
    assert held.isdisjoint({document.prompt for document in training if document.task == task})


def test_sums_are_right_and_held_out_together():
    for document in smallworld.generate("addition", 200, 0, "held_out"):
        a, b = map(int, document.prompt.removesuffix(" =").split(" + "))
        assert int(document.answer) == a + b
        assert in_split(f"{min(a, b)}+{max(a, b)}", "held_out")


def test_brackets_are_balanced():
    close = {")": "(", "]": "[", "}": "{"}
    for document in smallworld.generate("brackets", 200, 0):
        stack: list[str] = []
        for sign in document.text.removeprefix("Code: ").removesuffix(" end").split():
            if sign in close:
                assert stack.pop() == close[sign]
            else:
                stack.append(sign)
        assert not stack


def test_spans_mark_answers():
    for task in smallworld.TASKS:
        for document in smallworld.generate(task, 50, 1, "train"):
            for start, end in document.spans:
                assert 0 < start < end <= len(document.text)
            assert document.text.startswith(document.prompt)


def test_the_demonstration_prompt_is_a_form_of_the_corpus():
    prompts = {document.prompt: document.answer for document in smallworld.two_hop_prompts("held_out")}
    assert prompts["The capital of the state containing Dallas is"] == "Austin"
    assert prompts["The capital of the state containing Oakland is"] == "Sacramento"
    document = fill("composed", COMPOSED[0], c="Dallas", a="capital", k="state", the="", answer="Austin")
    assert opened(document, "Fact: ").text == "Fact: the capital of the state containing Dallas is Austin."


def test_two_hop_prompts_split_all_cities():
    for kind in ("state", "country"):
        both = [*smallworld.two_hop_prompts("train", kind=kind), *smallworld.two_hop_prompts("held_out", kind=kind)]
        assert len(both) == len([city for city in smallworld.cities() if city.place.kind == kind])


def test_joined_documents_keep_their_answers():
    parts = smallworld.generate("location", 3, 0)
    whole = joined(parts, "passage")
    assert [whole.text[start:end] for start, end in whole.spans] == [part.answer for part in parts]


def test_no_slot_is_left_open():
    for document in smallworld.generate("plain", 20 * len(prose()), 0, "train"):
        assert "{" not in document.text


def test_unknown_tasks_and_splits_are_refused():
    with pytest.raises(NotFound, match="addition"):
        smallworld.generate("chess", 1, 0)
    with pytest.raises(BadInput, match="train, held_out"):
        smallworld.two_hop_prompts("test")
