"""Streams: what is drawn how often, that nothing is lost, and that the order can be taken up again."""

from collections import Counter

import pytest
import torch

from glassworks.errors import BadInput
from glassworks.harvest import (
    Contexts,
    Live,
    Reading,
    Recording,
    Rows,
    Shuffled,
    Storing,
    frequency_weights,
    harvest,
    pairs,
)
from tests.harvest.conftest import DOCUMENTS, SITES, same


def recording() -> Recording:
    tokens = torch.tensor([0] * 900 + [1] * 100)
    rows = torch.arange(1000)
    return Recording(tokens, rows, rows, {"mlp_in.0": rows[:, None].float()})


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    storing = Storing(dtype="bfloat16", shard_bytes=6000, batch=64)
    return harvest(model, DOCUMENTS, SITES, tmp_path_factory.mktemp("store"), storing=storing)


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


def test_rows_of_a_store_are_those_of_the_same_recording(store):
    values = {site: store.read(site) for site in store.sites}
    twin = Recording(store.tokens, store.documents, store.positions, values, store.heads)
    drawn = Rows(store, 100, 0.0, 3, ["attn_heads.0[1]", "mlp_in.1"]).draw()
    assert same(drawn, Rows(twin, 100, 0.0, 3, ["attn_heads.0[1]", "mlp_in.1"]).draw())
    assert {site: rows.shape[1] for site, rows in drawn.items()} == {"attn_heads.0[1]": 8, "mlp_in.1": 16}


@pytest.mark.parametrize("buffer", [1, 60, 10_000])
def test_shuffled_gives_every_row_once_an_epoch(store, buffer: int, monkeypatch):
    monkeypatch.setattr("glassworks.harvest.shuffled.BLOCK_BYTES", 900)
    stream = Shuffled(store, 20, buffer=buffer)
    names = {tuple(row.tolist()): number for number, row in enumerate(store.read("mlp_in.1"))}
    drawn = [stream.draw() for _ in range(3 * store.rows // 20)]
    counts = Counter(names[tuple(row.tolist())] for batch in drawn for row in batch["mlp_in.1"])
    held = stream.state()["rows"].tolist()
    for number in range(store.rows):  # in three epochs, with what is still in the buffer and one epoch's end
        assert 2 <= counts[number] + held.count(number) <= 4
    batch = drawn[5]
    numbers = torch.tensor([names[tuple(row.tolist())] for row in batch["mlp_in.1"]])
    assert all(torch.equal(rows, store.take(site, numbers)) for site, rows in batch.items())
    if buffer > 1:
        assert numbers.tolist() != sorted(numbers.tolist())


def test_only_what_is_asked_for_is_read(store, monkeypatch):
    read = set()
    span = type(store.folder).span
    monkeypatch.setattr(type(store.folder), "span", lambda self, file, *a: read.add(file) or span(self, file, *a))
    stream = Shuffled(store, 20, sites=["attn_heads.0[0]"])
    assert {site: rows.shape for site, rows in stream.draw().items()} == {"attn_heads.0[0]": (20, 8)}
    assert {file.split("/")[0] for file in read} == {"attn_heads.0"}
    assert stream.widths == {"attn_heads.0[0]": 8}


def test_a_batch_larger_than_the_store(store):
    with pytest.raises(BadInput, match="more than the store has"):
        Shuffled(store, store.rows + 1)


def makers(model, store):
    return {
        "rows": lambda: Rows(store, 30, 0.5, 7),
        "shuffled": lambda: Shuffled(store, 30, 7, buffer=90),
        "live": lambda: Live(Contexts(model, DOCUMENTS, Reading()), SITES, 30, 7, buffer=90, tokens=64),
    }


@pytest.mark.parametrize("kind", ["rows", "shuffled", "live"])
@pytest.mark.parametrize("before", [0, 1, 12])
def test_what_comes_after_a_restart_is_the_same(model, store, kind: str, before: int):
    make = makers(model, store)[kind]
    stream, again = make(), make()
    for _ in range(before):
        stream.draw()
    state = {name: value.clone() for name, value in stream.state().items()}
    expected = [stream.draw() for _ in range(10)]
    again.draw()
    again.restore(state)
    assert all(same(batch, again.draw()) for batch in expected)
    assert same(stream.state(), again.state())


def test_live_gives_what_the_model_computes(model, truth, store):
    stream = makers(model, store)["live"]()
    drawn = torch.cat([stream.draw()["mlp_in.1"] for _ in range(60)])
    every = torch.stack([values["mlp_in.1"] for values in truth.values()])
    distance, nearest = torch.cdist(drawn, every, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert float(distance.max()) <= 1e-4
    assert len(nearest.unique()) > 0.9 * len(every)
    square = float(every.square().sum(1).mean())
    assert stream.statistics("mlp_in.1").square == pytest.approx(square, rel=0.3)
    assert stream.widths == {"mlp_in.1": 16, "attn_heads.0": 16, "resid_post.0": 16}


def test_live_of_nothing(model):
    with pytest.raises(BadInput, match="no token to record"):
        Live(Contexts(model, [[3]], Reading()), SITES, 4).draw()
