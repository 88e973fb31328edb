"""Partners: tokens of two tokenizers that end at the same character."""

import pytest
import torch

from glassworks.errors import BadInput, Unsupported
from glassworks.models import Model
from glassworks.transfer import TokenPairs, align, pair, paired_states
from tests.transfer import worlds


@pytest.fixture(scope="module")
def worded(twins: worlds.Twins) -> Model:
    return twins[0]


def shown(model: Model, ids: tuple[int, ...], at: tuple[int, ...]) -> list[str]:
    """The text up to each of some tokens."""
    return ["".join(model.tokenizer.convert_ids_to_tokens(list(ids[1 : each + 1]))) for each in at]


def test_partners_have_seen_the_same_text(worded: Model, lettered: Model):
    text = "red cat and the blue dog"
    (found,) = pair(worded, lettered, [text])
    seen = shown(worded, found.tokens_a, found.at_a)
    assert seen == shown(lettered, found.tokens_b, found.at_b)
    assert seen == ["red", "red cat", "red cat and", "red cat and the", "red cat and the blue", text]
    (back,) = pair(lettered, worded, [text])
    assert (back.at_a, back.at_b) == (found.at_b, found.at_a)


def test_spaces_before_and_after_words_do_not_part_them(worded: Model):
    after = Model(
        worded.hf, worlds.tokenizer(tuple(f"{word} " for word in worlds.WORDS) + worlds.WORDS, r"[a-z]+ ?"), "after"
    )
    (found,) = pair(worded, after, ["red cat runs"])
    assert shown(worded, found.tokens_a, found.at_a) == ["red", "red cat", "red cat runs"]
    assert shown(after, found.tokens_b, found.at_b) == ["red ", "red cat ", "red cat runs"]


def test_nothing_is_run_that_no_partner_sees(worded: Model):
    (found,) = pair(worded, worded, [("red cat and blue", "red cat runs")])
    assert (len(found.tokens_a), len(found.tokens_b), found.at_a) == (3, 3, (1, 2))


def test_the_beginning_of_text_is_a_partner_where_asked_for(worded: Model, lettered: Model):
    (found,) = pair(worded, lettered, ["red cat"], start=True)
    assert (found.at_a, found.at_b) == ((0, 1, 2), (0, 3, 7))


def test_different_texts_are_aligned_where_they_agree(worded: Model):
    (found,) = pair(worded, worded, [("red cat runs", "the red cat sits")])
    assert shown(worded, found.tokens_a, found.at_a) == ["red", "red cat"]
    assert shown(worded, found.tokens_b, found.at_b) == ["the red", "the red cat"]


def test_ids_are_partners_one_by_one(worded: Model, lettered: Model):
    first, second = pair(worded, lettered, [[5, 6, 7], ([1, 2, 3], torch.tensor([4, 5, 6]))])
    assert (first.tokens_a, first.tokens_b, first.at_a, first.document) == ((5, 6, 7), (5, 6, 7), (1, 2), 0)
    assert (second.tokens_b, second.at_b, second.document) == ((4, 5, 6), (1, 2), 1)
    with pytest.raises(BadInput, match="3 ids for one and 2 for letters"):
        pair(worded, lettered, [([1, 2, 3], [1, 2])])
    with pytest.raises(BadInput, match="a text and a list"):
        pair(worded, lettered, [("red", [1, 2])])


@pytest.mark.parametrize("length", [5, 60])
def test_long_texts_are_read_to_their_end(length: int, worded: Model, lettered: Model):
    text = " ".join(worlds.texts(60)[:length])
    found = pair(worded, lettered, [text])
    assert len(found) > length / 10
    assert all(len(each.tokens_b) <= lettered.context_length for each in found)
    assert sum(len(each) for each in found) == len(text.split())
    assert {each.document for each in found} == {0}


def test_states_are_those_of_the_partners(worded: Model, lettered: Model):
    pairs = pair(worded, lettered, worlds.texts(30))
    rows = [*paired_states(worded, lettered, pairs, ["resid_post.1"], ["resid_mid.0", "attn_heads.1"], batch=40)]
    assert sum(len(each) for each in rows) == sum(len(each) for each in pairs)
    by_document = {each.document: each for each in pairs}
    for each in rows:
        for number in range(len(each)):
            mine: TokenPairs = by_document[int(each.documents[number])]
            place = mine.at_a.index(int(each.at_a[number]))
            state = lettered.capture(list(mine.tokens_b), ["resid_mid.0"])["resid_mid.0"][mine.at_b[place]]
            torch.testing.assert_close(each.b["resid_mid.0"][number], state, atol=1e-4, rtol=1e-4)
        assert each.b["attn_heads.1"].shape == (len(each), worlds.WIDTH)


def test_models_of_different_tokenizers_are_aligned(worded: Model, lettered: Model):
    found = align(worded, lettered, worlds.texts(120), ["resid_post"])
    assert found.fit.rows + found.held.rows == sum(len(text.split()) for text in worlds.texts(120))
    assert found.up("resid_post.0", "resid_post.0").weight.shape == (worlds.WIDTH, worlds.WIDTH)


def test_no_shared_text_is_one_sentence(worded: Model, lettered: Model):
    with pytest.raises(BadInput, match="one and letters share no text"):
        pair(worded, lettered, [("red", "sits")])


def test_a_tokenizer_that_does_not_tell_places_is_refused(worded: Model):
    slow = Model(worded.hf, object(), "slow")
    with pytest.raises(Unsupported, match="tokenizer of slow does not tell"):
        pair(worded, slow, ["red"])
    with pytest.raises(BadInput, match="no tokenizer"):
        pair(worded, Model(worded.hf), ["red"])
