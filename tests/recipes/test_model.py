"""Building: a whole folder that transformers loads, or nothing."""

import json
import signal

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from glassworks import artefacts
from glassworks.errors import BadInput, NotFound
from recipes.smallworld import Recipe
from recipes.smallworld import model as builder

RECIPE = Recipe(steps=2, rows=1, warmup=1)


def build(out, checkpoints, **options):
    return builder.build_model("smallworld-s", out, checkpoints=checkpoints, recipe=RECIPE, count=2, **options)


@pytest.fixture(scope="module", autouse=True)
def _short_vocabulary():
    """Build the tokenizer once; it takes seconds and is the same every time."""
    tokenizer, real = builder.build_tokenizer(), builder.build_tokenizer
    builder.build_tokenizer = lambda: tokenizer
    yield
    builder.build_tokenizer = real


def test_a_build_is_a_folder_that_transformers_loads(tmp_path):
    card = build(tmp_path / "model", tmp_path / "checkpoints")
    folder = tmp_path / "model"
    artefacts.read(folder, "model").verify()
    assert json.loads((folder / "card.json").read_text()) == card
    assert "composed_held_out" in card["missed_aims"]
    assert "| composed_held_out |" in (folder / "README.md").read_text()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("The capital of Texas is", return_tensors="pt")
    assert torch.isfinite(model(**inputs).logits).all()
    assert card["parameters"] == sum(value.numel() for value in model.parameters())
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_failed_build_leaves_nothing_and_can_be_resumed(tmp_path, monkeypatch):
    def fail(folder, chat):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(builder, "save_tokenizer", fail)
        with pytest.raises(OSError, match="disk full"):
            build(tmp_path / "model", tmp_path / "checkpoints")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    with pytest.raises(BadInput, match="resume it, or delete it"):
        build(tmp_path / "model", tmp_path / "checkpoints")
    build(tmp_path / "model", tmp_path / "checkpoints", resume=True)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_an_interrupted_build_says_how_to_go_on(tmp_path, monkeypatch):
    real = builder.train

    def train(run, tokenizer, folder, report):
        return real(run, tokenizer, folder, lambda *_: signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(builder, "train", train)
    with pytest.raises(KeyboardInterrupt, match=r"recipes\.smallworld smallworld-s --resume"):
        build(tmp_path / "model", tmp_path / "checkpoints")
    assert not (tmp_path / "model").exists()


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="something else"):
        build(tmp_path, tmp_path / "checkpoints")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(NotFound, match="smallworld-s"):
        builder.build_model("smallworld-xl", tmp_path / "model")
