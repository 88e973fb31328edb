"""Training: packed rows are what they should be, and an interrupted run ends with the very same weights."""

import signal
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from glassworks import smallworld
from glassworks.errors import BadArtefact, BadInput
from recipes.smallworld import Recipe, packing
from recipes.smallworld import training as pretrain
from recipes.smallworld.packing import Rows, training_rows
from recipes.smallworld.recipe import Size
from recipes.smallworld.tokenizer import BOS, EOS, PAD, build_tokenizer
from recipes.smallworld.training import Run, load_checkpoint, loss_of, new_run, rate_at, save_checkpoint, train

RECIPE = Recipe(steps=7, rows=2, warmup=2)
SIZE = Size(width=32, layers=2, heads=2, mlp=64)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer()


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch):
    for module in (packing, pretrain):
        monkeypatch.setattr(module, "BATCHES_PER_PART", 3)


def tiny(tokenizer: Tokenizer, recipe: Recipe = RECIPE) -> Run:
    return new_run("tiny", SIZE, recipe, tokenizer.get_vocab_size())


def test_rows_hold_whole_documents(tokenizer):
    rows = training_rows(tokenizer, RECIPE, 0, smallworld.stream)
    assert rows.ids.shape == (6, 64)
    used = rows.documents >= 0
    assert (used | (rows.ids == PAD)).all()
    assert used.float().mean() > 0.8
    starts = rows.positions == 0
    assert (rows.ids[starts & used] == BOS).all()
    assert (rows.weights[starts] == 0).all()
    last = used & (rows.documents != torch.nn.functional.pad(rows.documents[:, 1:], (0, 1), value=-2))
    assert (rows.ids[last] == EOS).all()
    assert set(rows.weights[used & ~starts].tolist()) == {0.5, 1.0}


def test_rows_depend_on_seed_and_part_alone(tokenizer):
    one, again, two = (training_rows(tokenizer, RECIPE, part, smallworld.stream).ids for part in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


def test_documents_of_a_row_do_not_see_each_other(tokenizer):
    rows, model = training_rows(tokenizer, RECIPE, 0, smallworld.stream).slice(0, 1), tiny(tokenizer).model
    losses, weights = [], []
    for number in range(int(rows.documents.max()) + 1):
        mine = rows.documents[0] == number
        values = (rows.ids, rows.weights, rows.documents, rows.positions)
        alone = Rows(*(value[:, mine] for value in values))
        weights.append(alone.weights.sum())
        losses.append(loss_of(model, alone) * weights[-1])
    torch.testing.assert_close(loss_of(model, rows), sum(losses) / sum(weights))


def test_an_interrupted_run_ends_with_the_same_weights(tokenizer, tmp_path):
    whole = tiny(tokenizer)
    losses: list[float] = []
    assert train(whole, tokenizer, tmp_path / "whole", lambda step, loss, tokens: losses.append(loss))
    part = tiny(tokenizer)

    def interrupt(step: int, loss: float, tokens: int) -> None:
        if step == 4:
            signal.raise_signal(signal.SIGINT)

    assert not train(part, tokenizer, tmp_path / "part", interrupt)
    assert part.step == 4
    resumed = tiny(tokenizer)
    load_checkpoint(resumed, tmp_path / "part")
    rest: list[float] = []
    assert train(resumed, tokenizer, tmp_path / "part", lambda step, loss, tokens: rest.append(loss))
    assert rest == losses[4:]
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_checkpoints_are_written_now_and_then(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    seen = []

    def look(step: int, loss: float, tokens: int) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))

    train(tiny(tokenizer), tokenizer, tmp_path, look)
    assert seen[0] == []
    assert seen[1:] == [["checkpoint.pt"]] * 6


def test_the_embedding_table_is_frozen(tokenizer, tmp_path):
    run = tiny(tokenizer)
    before = run.model.model.embed_tokens.weight.clone()
    train(run, tokenizer, tmp_path, lambda *_: None)
    assert torch.equal(before, run.model.model.embed_tokens.weight)
    assert before.std().item() == pytest.approx(32**-0.5, rel=0.02)


def test_learning_lowers_the_loss(tokenizer, tmp_path):
    losses: list[float] = []
    recipe = Recipe(steps=30, rows=4, warmup=5)
    train(tiny(tokenizer, recipe), tokenizer, tmp_path, lambda step, loss, tokens: losses.append(loss))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_rates():
    recipe = Recipe(steps=100, warmup=10, decay=0.5, rate=1.0)
    assert [rate_at(step, recipe) for step in (0, 9, 50, 75)] == pytest.approx([0.1, 1.0, 1.0, 0.5])


def test_foreign_checkpoints_are_refused(tokenizer, tmp_path):
    save_checkpoint(tiny(tokenizer), tmp_path)
    with pytest.raises(BadInput, match="another model or recipe"):
        load_checkpoint(tiny(tokenizer, Recipe(steps=8)), tmp_path)


def test_missing_and_damaged_checkpoints_are_refused(tokenizer, tmp_path: Path):
    with pytest.raises(BadInput, match="no checkpoint"):
        load_checkpoint(tiny(tokenizer), tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(BadArtefact, match="cannot be read"):
        load_checkpoint(tiny(tokenizer), tmp_path)
