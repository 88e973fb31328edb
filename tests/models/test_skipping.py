"""Runs that begin in the middle end as whole runs do, in every family, and leave the model as it was."""

import pytest
import torch

from glassworks.models import starting


def test_a_run_from_any_layer_ends_as_the_whole_run(model, tokens):
    ids = tokens[:, :8]
    whole = model.capture(ids, ["logits", *model.sites("resid_post")])
    for layer in range(model.n_layers + 1):
        with torch.no_grad(), starting(model.taps, layer, whole[f"resid_post.{max(layer - 1, 0)}"]):
            wrong = ids.roll(1, 1) if layer else ids  # the tokens themselves are not read any more
            logits = model.hf(input_ids=wrong, use_cache=False).logits
        torch.testing.assert_close(logits, whole["logits"], atol=1e-5, rtol=1e-5)
    again = model.capture(ids, ["logits"])["logits"]
    assert torch.equal(again, whole["logits"])


def test_an_exception_inside_leaves_the_model_whole(model, tokens):
    before = model.capture(tokens, ["logits", "resid_post.1"])
    with pytest.raises(RuntimeError, match="inside"), starting(model.taps, 2, before["resid_post.1"]):
        raise RuntimeError("inside")
    assert torch.equal(model.capture(tokens, ["logits"])["logits"], before["logits"])
