"""Targets in words: what each form means, and one clear sentence for the rest."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from glassworks.circuits import Continuation, Direction, Feature, Likely, Logit, parse
from glassworks.errors import BadArtefact, BadInput, NotFound
from glassworks.models import load_model
from tests.circuits.tiny import random_model


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("Austin", Logit("Austin")),
        ("#17", Logit(17)),
        ("Austin@5", Logit("Austin", None, 5)),
        ("Austin@-2", Logit("Austin", None, -2)),
        ("Austin - Sacramento", Logit("Austin", "Sacramento")),
        ("Austin - Sacramento@3", Logit("Austin", "Sacramento", 3)),
        ("#17 - Dallas", Logit(17, "Dallas")),
        ("likely", Likely()),
        ("likely@5", Likely(5)),
        ("next:3", Continuation(3)),
        ("mlp_in.2/17", Feature("mlp_in.2", 17)),
        ("mlp_in.2/17@-3", Feature("mlp_in.2", 17, -3)),
        ("clt/resid_mid.2/17@4", Feature("clt/resid_mid.2", 17, 4)),
    ],
)
def test_words_mean_what_they_say(text, meaning):
    model = load_model("smallworld")
    found = parse(text, model)
    if isinstance(meaning, Logit):
        ids = [model.token_id(each) if isinstance(each, str) else each for each in (meaning.token, meaning.minus or 0)]
        assert isinstance(found, Logit)
        assert (found.token, found.minus or 0, found.position) == (*ids, meaning.position)
    else:
        assert found == meaning


def test_a_token_is_a_token_whatever_else_it_could_mean():
    model = load_model("smallworld")
    assert parse("-", model) == Logit(model.token_id("-"))
    assert parse("#3", random_model("llama")) == Logit(3)  # a model without a tokenizer


@pytest.mark.parametrize("text", ["", "no such words", "Austin - nowhere at all", "nowhere at all@3"])
def test_what_is_no_target_is_refused(text):
    with pytest.raises((BadInput, NotFound)) as error:
        parse(text, load_model("smallworld"))
    assert len(str(error.value).splitlines()) == 1


def test_directions_come_from_files(tmp_path):
    model, vector = load_model("smallworld"), torch.randn(5)
    np.save(tmp_path / "a.npy", vector.numpy()[None])
    save_file({"x": vector.half()}, tmp_path / "b.safetensors")
    for name in ("a.npy", "b.safetensors"):
        found = parse(f"direction:{tmp_path / name}:resid_post.2@4", model)
        assert isinstance(found, Direction)
        assert (found.site, found.position, found.name) == ("resid_post.2", 4, name[0])
        torch.testing.assert_close(found.vector, vector, atol=1e-3, rtol=1e-3)
    np.save(tmp_path / "matrix.npy", np.ones((2, 3)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"x": vector, "y": vector + 1}, tmp_path / "two.safetensors")
    for name in ("matrix.npy", "objects.npy", "text.npy", "text.safetensors", "two.safetensors"):
        with pytest.raises(BadArtefact):
            parse(f"direction:{tmp_path / name}:resid_post.2", model)
    with pytest.raises(NotFound, match="no file"):
        parse("direction:nowhere.npy:resid_post.2", model)
