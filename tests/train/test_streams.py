"""Streams: what is drawn how often, and that the order can be taken up again."""

import pytest
import torch

from glassworks.harvest import Recording
from glassworks.train import Rows, Texts, Together
from glassworks.train.streams import frequency_weights, pairs


def recording() -> Recording:
    tokens = torch.tensor([0] * 900 + [1] * 100)
    rows = torch.arange(1000)
    return Recording(tokens, rows, rows, {"mlp_in.0": rows[:, None].float()})


@pytest.mark.parametrize(("flatten", "share"), [(0.0, 0.1), (0.5, 0.25), (1.0, 0.5)])
def test_rare_tokens_are_drawn_more_often(flatten: float, share: float):
    rows = Rows(recording(), 20_000, flatten, 0).draw()["mlp_in.0"]
    assert float((rows >= 900).float().mean()) == pytest.approx(share, abs=0.015)


def test_pairs_are_a_token_and_the_next_of_its_document():
    tokens = torch.tensor([5, 6, 5, 6, 5, 7, 6])
    documents = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    found = pairs(Recording(tokens, documents, torch.arange(7), {})).tolist()
    assert found[0] == found[2]
    assert found[3] == found[6]  # both end their document
    assert len(set(found)) == 5


def test_a_frequent_token_is_balanced_by_what_follows_it():
    tokens = torch.tensor([0, 1] * 450 + [0, 2] * 50)
    documents = torch.arange(500).repeat_interleave(2)
    values = {"mlp_in.0": torch.arange(1000)[:, None].float()}
    rows = Rows(Recording(tokens, documents, documents, values), 20_000, 1.0, 0).draw()["mlp_in.0"]
    before = rows[(rows % 2 == 0)]
    # by token the rare follower has 10 % of them, by pair 50 %; half of the weight is each
    by_token, by_pair = 1000 / 3 / 500, 1000 / 4
    expected = (50 * by_token + by_pair) / (500 * by_token + 2 * by_pair)
    assert float((before >= 900).float().mean()) == pytest.approx(expected, abs=0.02)


def test_weights_have_mean_one():
    weights = frequency_weights(torch.tensor([4, 4, 4, 9]), 1.0)
    assert weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])


def test_texts_are_of_similar_length_and_all_come():
    documents = [[number] * (1 + number % 9) for number in range(200)]
    stream = Texts(documents, 40, 0)
    seen = set()
    for _ in range(300):
        batch = stream.draw()
        lengths = [len(each) for each in batch]
        assert max(lengths) - min(lengths) <= 8
        assert len({each[0] for each in batch}) == len(batch)
        seen |= {each[0] for each in batch}
    assert seen == set(range(200))


def test_a_few_texts_are_enough():
    assert Texts([[1, 2]], 100, 0).draw() == [[1, 2]]


def test_the_order_is_its_generators():
    def make() -> Together:
        return Together([Rows(recording(), 5, 0.5, 1), Texts([[n, n] for n in range(50)], 10, 2)])

    first, again = make(), make()
    for _ in range(3):
        first.draw()
    for old, new in zip(first.generators(), again.generators(), strict=True):
        new.set_state(old.get_state())
    for _ in range(3):
        (rows, texts), (rows_again, texts_again) = first.draw(), again.draw()
        assert torch.equal(rows["mlp_in.0"], rows_again["mlp_in.0"])
        assert texts == texts_again
