"""The recipe on a tiny model, and the scope that is shipped against its aims on text that it has not seen."""

from pathlib import Path

import pytest
import torch

import glassworks as gw
from glassworks import artefacts, hub
from glassworks.coders import JumpReLU, Scope
from glassworks.errors import BadInput
from glassworks.evals import measure
from glassworks.models import Model
from glassworks.train import Transcoders, transcoders, world_text

RECIPE = Transcoders(width=32, k=4, steps=12, joint_steps=4, rows=64, tokens=64)
DOCUMENTS = [
    [2, *torch.randint(3, 31, (5 + n % 3,), generator=torch.Generator().manual_seed(n)).tolist()] for n in range(60)
]


def weights(scope: Scope) -> list[torch.Tensor]:
    return [value for coder in scope.coders.values() for value in coder.state_dict().values()]


def test_the_recipe_makes_a_scope_of_every_layer(tiny: Model, tmp_path: Path):
    scope = transcoders(tiny, DOCUMENTS, RECIPE, tmp_path)
    assert list(scope) == ["mlp_in.0", "mlp_in.1"] == scope.replacement
    assert scope.untrained == ("bos",)
    assert all(isinstance(coder.activation, JumpReLU) for coder in scope.coders.values())
    again = transcoders(tiny, DOCUMENTS, RECIPE)
    assert all(torch.equal(old, new) for old, new in zip(weights(scope), weights(again), strict=True))
    resumed = transcoders(tiny, DOCUMENTS, RECIPE, tmp_path)  # both stages are finished there
    assert all(torch.equal(old, new) for old, new in zip(weights(scope), weights(resumed), strict=True))


def test_world_text_needs_a_tokenizer(tiny: Model):
    with pytest.raises(BadInput, match="no tokenizer"):
        world_text(tiny, 3, "train", 0)


@pytest.fixture(scope="module")
def shipped() -> tuple[Model, Scope]:
    return gw.load_model("smallworld"), gw.load_scope("smallworld")


def test_world_text_is_what_the_model_reads(shipped):
    model, _ = shipped
    documents, answers = world_text(model, 50, "held_out", 3)
    for ids, marks in zip(documents, answers, strict=True):
        assert ids[0] == model.tokenizer.bos_token_id
        assert ids[-1] == model.tokenizer.eos_token_id
        text = "".join(model.token_text(each) for each in ids[1:-1])
        assert model.tokens(text.strip()).tolist() == ids[:-1]
        assert len(marks) == len(ids)
        assert not marks[0]
    assert any(any(marks) for marks in answers)
    assert world_text(model, 50, "held_out", 3) == (documents, answers)
    assert world_text(model, 50, "held_out", 4) != (documents, answers)


def test_the_shipped_scope_meets_its_aims(shipped):
    model, scope = shipped
    documents, answers = world_text(model, 2500, "held_out", 77)
    found = measure(model, scope, documents, answers)
    assert len(found["coders"]) == model.n_layers
    for facts in found["coders"].values():
        assert facts["fvu"] <= 0.10
        assert facts["l0"] <= 24
        assert facts["dead"] <= 0.10
    assert found["recovered"] >= 0.90
    assert found["recovered_answers"] >= 0.90


def test_its_manifest_states_what_is_measured(shipped):
    _, scope = shipped
    assert scope.metrics["recovered"] >= 0.90
    assert set(scope.metrics["coders"]) == set(scope)


def test_it_is_labelled_with_evidence(shipped):
    model, scope = shipped
    for name, coder in scope.coders.items():
        evidence = scope.evidence(name)
        assert evidence is not None
        assert len(scope.labels[name]) == coder.d_latent
        active = evidence.density > 0
        assert all(bool(label) == bool(on) for label, on in zip(scope.labels[name], active, strict=True))
        assert int(evidence.example_tokens.max()) < model.vocab_size


def test_model_and_scope_stay_small():
    folders = [hub.resolve("smallworld"), hub.resolve("smallworld", "scope")]
    assert sum(file.stat().st_size for folder in folders for file in folder.rglob("*")) <= 15e6
    artefacts.read(folders[1], "scope").verify()
