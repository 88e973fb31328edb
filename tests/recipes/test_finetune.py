"""Fine-tuning: it begins at the base model, reads conversations, and its folder is an instruct model."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM

from glassworks import artefacts, studies
from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.studies import knowledge
from recipes.smallworld import Recipe, card, packing, training
from recipes.smallworld import model as builder
from recipes.smallworld.recipe import Size
from recipes.smallworld.tokenizer import fast_tokenizer
from recipes.smallworld.training import new_finetune, new_run, train

RECIPE = Recipe(steps=2, rows=1, warmup=1)
SIZE = Size(width=32, layers=2, heads=2, mlp=64)


@pytest.fixture(scope="module")
def tokenizer():
    return builder.build_tokenizer()


@pytest.fixture(autouse=True)
def _short(monkeypatch, tokenizer):
    monkeypatch.setattr(builder, "build_tokenizer", lambda: tokenizer)
    for module in (packing, training):
        monkeypatch.setattr(module, "BATCHES_PER_PART", 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    """A base model of two layers that has learned nothing."""
    folder = tmp_path_factory.mktemp("family") / "smallworld-s"
    run = new_run("smallworld-s", SIZE, RECIPE, tokenizer.get_vocab_size())
    builder.finish(run, tokenizer, folder, count=2)
    return folder


def test_it_begins_at_the_base_and_leaves_the_table(base, tokenizer, tmp_path):
    run = new_finetune("smallworld-s-it", base, RECIPE)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    stored = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert all(torch.equal(before[name], value) for name, value in stored.items())
    assert train(run, tokenizer, tmp_path, lambda *_: None)
    after = run.model.state_dict()
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert not torch.equal(after["model.layers.1.mlp.up_proj.weight"], before["model.layers.1.mlp.up_proj.weight"])


def test_a_build_is_an_instruct_model_that_transformers_loads(base, tmp_path):
    folder = base.parent / "smallworld-s-it"
    found = builder.build_model("smallworld-s-it", folder, checkpoints=tmp_path, recipe=RECIPE, count=2)
    artefacts.read(folder, "model").verify()
    assert json.loads((folder / "card.json").read_text()) == found
    assert found["base"] == "smallworld-s"
    assert "refusal" in found["missed_aims"]
    text = (folder / "README.md").read_text()
    assert "| chat: jailbreak |" in text
    assert "smallworld-s-it` from smallworld-s:" in text
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    assert tokenizer.chat_template
    values = torch.cat([value.flatten() for value in model.parameters()])
    assert torch.equal(values, values.bfloat16().float())


def test_a_missing_base_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(builder.hub, "EMBEDDED", tmp_path / "none")
    with pytest.raises(BadInput, match=r"There is no smallworld-l in .*build it first"):
        builder.build_model("smallworld-l-it", tmp_path / "smallworld-l-it", recipe=RECIPE)


def parrot(tokenizer, word: str) -> Model:
    """A model that expects the same token after every token."""
    size, token = tokenizer.get_vocab_size(), tokenizer.encode(word).ids[1]
    hf = Gemma3ForCausalLM(training.config(SIZE, size))
    hot = torch.nn.functional.one_hot(torch.tensor(token), size).float()
    hf.lm_head.register_forward_hook(lambda module, args, output: hot.expand_as(output).clone())
    return Model(hf, fast_tokenizer(tokenizer))


def test_a_reply_counts_only_if_it_begins_with_all_the_words(tokenizer, monkeypatch):
    monkeypatch.setattr(
        knowledge,
        "BEGINNINGS",
        {"compliance": ("harmless", "Sure", "held_out"), "both": ("harmful", "I cannot", "new")},
    )
    monkeypatch.setattr(knowledge, "WHOLE", {"whole": "harmless"})
    whole = {"compliance": 1.0, "both": 0.0, "whole": 0.0}
    assert studies.interview(parrot(tokenizer, "Sure"), 5) == whole
    assert studies.interview(parrot(tokenizer, "I"), 5)["both"] == 0.0


def test_cards_tell_what_was_missed_and_lost():
    chat = dict.fromkeys(card.CHAT_AIMS, 1.0) | {"refusal": 0.9}
    plain = {"name": "x", "measured": {"copying": 0.95, "plural": 0.98, "location_short": 0.0}, "missed_aims": []}
    base = {"name": "y", "measured": {"copying": 1.0, "plural": 1.0, "location_short": 1.0}}
    assert card.with_chat(plain, base, chat)["missed_aims"] == ["refusal", "lost copying"]
