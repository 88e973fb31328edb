"""Batches, prompts, predictions and generation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.sites import Site

Build = Callable[[str], Any]


def test_one_prompt_is_a_row_of_a_batch(model: Model, tokens: torch.Tensor) -> None:
    sites = ["mlp_in.1", "pattern.2", "logits"]
    batch = model.capture(tokens, sites, batch_size=2)
    for row, ids in enumerate(tokens):
        for site, value in model.capture(ids, sites).items():
            torch.testing.assert_close(batch[site][row], value, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(model.capture([int(each) for each in ids], sites)[site], value, rtol=0, atol=0)


def test_one_site_needs_no_list(model: Model, tokens: torch.Tensor) -> None:
    for site in ("mlp_in.1", Site("mlp_in", 1)):
        assert torch.equal(model.capture(tokens, site)["mlp_in.1"], model.capture(tokens, ["mlp_in.1"])["mlp_in.1"])


def test_shorter_prompts_end_with_nan(model: Model, tokens: torch.Tensor) -> None:
    rows = [tokens[0], tokens[1][:6], tokens[2][:1]]
    together = model.capture(rows, ["resid_post.2", "pattern.1"])
    for row, ids in enumerate(rows):
        for site, alone in model.capture(ids, ["resid_post.2", "pattern.1"]).items():
            value = together[site][row]
            kept = value[: len(ids), ..., : len(ids)] if site == "pattern.1" else value[: len(ids)]
            torch.testing.assert_close(kept, alone, rtol=1e-5, atol=1e-5)
            assert value[len(ids) :].isnan().all()


def test_generation_with_and_without_a_cache_agree(model: Model, tokens: torch.Tensor) -> None:
    with_cache = model.generate(tokens[0], 12)
    with model.tapped({Site("logits"): lambda _: None}):
        assert model.generate(tokens[0], 12) == with_cache
    expected = model.hf.generate(
        tokens[:1], attention_mask=torch.ones(1, 10, dtype=torch.long), max_new_tokens=12, do_sample=False
    )
    assert with_cache == " ".join(f"#{each}" for each in expected[0, 10:].tolist())


def test_generation_stops_at_end_tokens_and_at_the_context(build: Build, tokens: torch.Tensor) -> None:
    model = Model(build("llama"))
    whole = model.generate(tokens[0], 99).split()
    assert len(whole) == model.context_length - 10
    model.hf.generation_config.eos_token_id = [int(whole[2][1:]), 60]
    assert model.generate(tokens[0], 99).split() == whole[: whole.index(whole[2]) + 1]
    assert model.generate(tokens[0], 0) == ""


def test_sampling_is_repeatable_and_follows_the_temperature(build: Build, tokens: torch.Tensor) -> None:
    model = Model(build("gpt2"))
    hot = [model.generate(tokens[0], 15, temperature=5.0, seed=seed) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]
    assert model.generate(tokens[0], 15, temperature=1e-4) == model.generate(tokens[0], 15)


def test_predictions_are_probabilities_after_softcapping(model: Model, tokens: torch.Tensor) -> None:
    best = model.predict(tokens[0], k=4, position=3)
    right = model.capture(tokens[0], ["logits"])["logits"][3].softmax(-1).sort(descending=True)
    assert [each.id for each in best] == right.indices[:4].tolist()
    assert [each.probability for each in best] == pytest.approx(right.values[:4].tolist())
    assert best[0].token == f"#{best[0].id}"


@pytest.mark.parametrize(("prompt", "message"), [
    ([], "empty"), ("text", "no tokenizer"), ([-1], "token id -1"), ([1, 61], "61; the model knows ids 0 to 60"),
    ([1] * 33, "33 tokens; the model's context holds 32"), ([[1], []], "empty"),
    (torch.tensor([], dtype=torch.long), "empty"), ([True, False], "whole numbers"),
])  # fmt: skip
def test_bad_prompts_are_refused(build: Build, prompt: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Model(build("llama")).capture(prompt, ["logits"])


def test_positions_and_layers_out_of_range_are_refused(build: Build) -> None:
    model = Model(build("llama"))
    with pytest.raises(BadInput, match="position 3; the prompt has 3 tokens"):
        model.predict([1, 2, 3], position=3)
    with pytest.raises(BadInput, match="layers 0 to 2"):
        model.block(3)


def test_half_precision_runs(build: Build, tokens: torch.Tensor) -> None:
    model = Model(build("gemma3").to(torch.bfloat16))
    values = model.capture(tokens, model.sites())
    wide = {name for name, value in values.items() if value.dtype == torch.float32}
    assert wide == {name for name in values if "scale" in name or "pregain" in name}
    assert {values[name].dtype for name in values.keys() - wide} == {torch.bfloat16}
    with model.edit(frozen=("patterns", "norms", "mlps")):
        assert torch.equal(model.capture(tokens, ["logits"])["logits"], values["logits"])
