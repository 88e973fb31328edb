"""Rollouts against generating one prompt at a time, broken off and gone on with."""

import json

import pytest

import glassworks as gw
from glassworks.errors import BadInput
from glassworks.harvest import Contexts, Corpus, Reading, Sampling, write_rollouts

PROMPTS = [
    "The opposite of hot is",
    "The plural of cat is",
    "Lyon is in",
    "The capital of France is",
    "Two plus two is",
]


@pytest.fixture(scope="module")
def model():
    return gw.load_model("smallworld")


def test_greedy_answers_are_those_of_single_prompts(model, tmp_path):
    file = write_rollouts(model, PROMPTS, tmp_path / "r.jsonl", Sampling(6, 0, together=3))
    for line, prompt in zip(file.read_text().splitlines(), PROMPTS, strict=True):
        record = json.loads(line)
        tokens, length = record["tokens"], record["prompt"]
        assert tokens[:length] == model.tokens(prompt).tolist()
        assert model.tokenizer.decode(tokens[length:]) == model.generate(prompt, 6)
    contexts = [*Contexts(model, Corpus((str(file),)), Reading())]
    assert [each.tokens for each in contexts] == [json.loads(line)["tokens"] for line in file.read_text().splitlines()]


def test_what_was_broken_off_ends_the_same(model, tmp_path):
    sampling = Sampling(6, 1.0, seed=3, together=2)
    whole = write_rollouts(model, PROMPTS, tmp_path / "whole.jsonl", sampling).read_text()
    assert whole != write_rollouts(model, PROMPTS, tmp_path / "other.jsonl", Sampling(6, 1.0, 4, 2)).read_text()
    for size in (0, 10, len(whole) // 2, len(whole) - 1, len(whole)):
        part = tmp_path / f"{size}.jsonl"
        part.write_text(whole[:size])
        assert write_rollouts(model, PROMPTS, part, sampling).read_text() == whole


def test_what_cannot_be_rolled_out(model, tmp_path):
    write_rollouts(model, PROMPTS, tmp_path / "r.jsonl", Sampling(2, 0))
    with pytest.raises(BadInput, match="rollouts of other settings"):
        write_rollouts(model, PROMPTS, tmp_path / "r.jsonl", Sampling(3, 0))
    with pytest.raises(BadInput, match="leaves no room"):
        write_rollouts(model, [[2] * model.context_length], tmp_path / "long.jsonl", Sampling(2, 0))
