"""Loading: what works, and one clear sentence for what does not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from glassworks.errors import BadArtefact, BadInput, GlassworksError, NotFound, Unsupported
from glassworks.models import Model, families, load_model

Build = Callable[[str], Any]


@pytest.fixture
def folder(build: Build, tmp_path: Path) -> Path:
    build("llama").save_pretrained(tmp_path)
    return tmp_path


def test_every_family_survives_saving_and_loading(model: Model, tokens: torch.Tensor, tmp_path: Path) -> None:
    model.hf.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert (loaded.tokenizer, loaded.family, loaded.dtype) == (None, model.family, torch.float32)
    assert not any(each.requires_grad for each in loaded.hf.parameters())
    assert repr(loaded).startswith(f"Model({str(tmp_path)!r}: {model.family}, 3 layers, d_model 24")
    expected = model.capture(tokens, ["logits"])["logits"]
    assert torch.equal(loaded.capture(tokens, ["logits"])["logits"], expected)


def test_number_types_and_devices(folder: Path) -> None:
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder, dtype=torch.float16).dtype == torch.float16
    for device in ("nowhere", "meta:x"):
        with pytest.raises(BadInput, match=f"device '{device}' cannot be used"):
            load_model(folder, device=device)
    for wrong in ("float99", "int8", torch.int8):
        with pytest.raises(BadInput, match="number type"):
            load_model(folder, dtype=wrong)


def test_unsupported_architectures_name_those_that_are_supported(tmp_path: Path) -> None:
    transformers.BertConfig(hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match=r"BertLMHeadModel.*gemma3.*qwen3"):
        load_model(tmp_path)
    for config in ('{"model_type": "unheard_of"}', "{}", "[]"):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(Unsupported, match=r"unheard_of|None"):
            load_model(tmp_path)
    assert len(families()) == 10


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _drop(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is not readable JSON"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "config.json is not readable JSON"),
    "wrong config": (lambda folder: _configure(folder, hidden_size="wide"), "model in .* cannot be read"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model in .* cannot be read"),
    "cut weights": (_truncate, "model in .* cannot be read"),
    "foreign weights": (lambda folder: (folder / "model.safetensors").write_text("no"), "model in .* cannot be read"),
    "a tensor less": (_drop, "lack 1 tensors .* first model.norm.weight"),
    "other shapes": (lambda folder: _configure(folder, intermediate_size=17), "lack 9 tensors|cannot be read"),
    "broken tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer .* cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_give_one_sentence(folder: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    harm, message = DAMAGES[damage]
    harm(folder)
    with pytest.raises(BadArtefact, match=message) as error:
        load_model(folder)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_loading_is_silent(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(folder)
    assert capfd.readouterr() == ("", "")


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_model(tmp_path / "nothing")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinystories-656k", "stories260K", "gpt2-induction", "gpt2-sort-nano"])
def test_every_token_is_found_by_what_it_shows(data: Path, name: str) -> None:
    model = load_model(data / "models" / name)
    for token in range(model.vocab_size):
        shown = model.token_text(token)
        assert model.token_text(model.token_id(shown)) == shown


def test_texts_and_tokens(data: Path) -> None:
    model = load_model(data / "models" / "stories260K")
    assert [model.token_text(each) for each in model.tokens("The cat sat.")][:3] == ["<s>", " The", " c"]
    assert model.token_id("The") == model.token_id(" The")
    for wrong in ("the cat", "", "catsatonthe"):
        with pytest.raises(GlassworksError, match=r"not one token but \d|empty"):
            model.token_id(wrong)
    with pytest.raises(BadInput, match="empty"):
        model.tokens("")
    with pytest.raises(BadInput, match="tokenizer cannot read"):
        load_model(data / "models" / "gpt2-sort-nano").tokens("not sorted")


def test_a_tokenizer_file_on_its_own_is_read_as_it_is(build: Build, data: Path, tmp_path: Path) -> None:
    build("gemma3").save_pretrained(tmp_path)
    text, file = "Once upon a time", data / "models" / "stories260K" / "tokenizer.json"
    shutil.copy(file, tmp_path)
    ids = load_model(tmp_path).tokenizer(text)["input_ids"]
    assert ids == tokenizers.Tokenizer.from_file(str(file)).encode(text).ids == [1, 403, 407, 261, 378]
