"""Places of a text: characters find their tokens, and every tokenizer's tokens their characters."""

from pathlib import Path

import pytest
import torch

import glassworks as gw
from glassworks.edits import Gate, Span, add_vector
from glassworks.edits.targets import FeatureRef
from glassworks.edits.where import named_positions, where_of
from glassworks.errors import BadInput, NotFound
from glassworks.models import Model, load_vocabulary

PROMPT = "The capital of the state containing Dallas is"


@pytest.fixture(scope="module")
def embedded() -> Model:
    return gw.load_model("smallworld")


def test_a_span_is_the_tokens_that_show_it(embedded: Model) -> None:
    tokens = embedded.tokens(PROMPT).tolist()
    spans, texts = embedded.spans(tokens), [embedded.token_text(each) for each in tokens]
    assert spans[0] == (0, 0)
    assert [PROMPT[start:stop].strip() for start, stop in spans[1:]] == [each.strip() for each in texts[1:]]
    for part, words in (("Dallas", ["Dallas"]), ("state cont", ["state", "containing"]), (PROMPT, texts[1:])):
        found = named_positions(Span.of(PROMPT, part), len(tokens), spans)
        assert [texts[each].strip() for each in found] == [each.strip() for each in words]


def test_an_edit_acts_on_the_characters_of_each_prompt(embedded: Model) -> None:
    prompts = [PROMPT, "The capital of the state containing Oakland is"]
    edit = add_vector("resid_pre.0", torch.ones(embedded.d_model), Span.of(PROMPT, "Dallas"))
    before = embedded.capture(prompts, ["resid_pre.0"])["resid_pre.0"]
    with embedded.edit(edit):
        change = embedded.capture(prompts, ["resid_pre.0"])["resid_pre.0"] - before
    at = [row.abs().amax(-1).nonzero()[:, 0].tolist() for row in change]
    assert at == [[7], [7]]
    short = embedded.tokens("The capital").tolist()
    with pytest.raises(BadInput, match="characters 36 to 42; the prompt's text has 11"), embedded.edit(edit):
        embedded.capture(short, ["logits"])


@pytest.mark.parametrize("name", ["stories260K", "babyllama-char105", "tinystories-656k"])
def test_characters_of_tokens_follow_each_other(data: Path, name: str) -> None:
    vocabulary = load_vocabulary(data / "models" / name)
    ids = vocabulary.tokens("Lily said: the little  dog is, oh, so happy!").tolist()
    spans = vocabulary.spans(ids)
    assert len(spans) == len(ids)
    assert spans == sorted(spans)
    special = vocabulary.tokenizer.all_special_ids
    shown = vocabulary.decode([each for each in ids if each not in special])
    assert max(stop for _, stop in spans) == len(shown)
    assert all(start <= stop for start, stop in spans)


@pytest.mark.parametrize("given", ["first", [], [0, 0], 1.5, None, [0.5], Gate(FeatureRef("a", None, 0), 0, ())])
def test_what_is_no_place_is_refused(given: object) -> None:
    with pytest.raises(BadInput):
        where_of(given)


def test_spans_hold_something() -> None:
    with pytest.raises(BadInput, match="are none"):
        Span(3, 3)
    with pytest.raises(NotFound, match="does not hold the text 'Paris'"):
        Span.of(PROMPT, "Paris")
