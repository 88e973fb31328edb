"""The suite on a tiny model, and the scope that is shipped against its aims on text that it has not seen."""

import zlib
from pathlib import Path

import pytest
import torch

import glassworks as gw
from glassworks import artefacts, hub
from glassworks.coders import JumpReLU, Scope
from glassworks.errors import BadInput
from glassworks.experiments import evaluate
from glassworks.models import Model
from recipes.smallworld import Coders, Suite, train_suite, world_text

MLP = ("mlp_in", "mlp_out")
SUITE = Suite((Coders("transcoder", MLP, 32, 4.0, steps=12, joint_steps=4),), rows=64, tokens=64)
EVERYTHING = Suite(
    (
        *SUITE.coders,
        Coders("skip_transcoder", MLP, 16, 4.0, steps=3, joint_steps=2),
        Coders("clt", MLP, 16, 4.0, steps=3, joint_steps=2),
        Coders("sae", ("resid_post", "attn_out"), 16, 4.0, steps=3),
        Coders("crosscoder", ("resid_post",), 16, 4.0, steps=3),
    ),
    rows=64,
    tokens=64,
)
GATES = {"transcoder": (0.10, 24), "clt": (0.10, 24), "sae": (0.05, 32), "crosscoder": (0.10, 32)}
MLP = (0.06, 32)
MOST_DEAD = 0.05
"""Largest FVU and L0 by kind of coder, and of SAEs on MLP outputs; a CLT's latents count by layer."""
DOCUMENTS = [
    [2, *torch.randint(3, 31, (5 + n % 3,), generator=torch.Generator().manual_seed(n)).tolist()] for n in range(60)
]


def weights(scope: Scope) -> list[torch.Tensor]:
    return [value for coder in scope.coders.values() for value in coder.state_dict().values()]


@pytest.mark.slow
def test_a_suite_makes_a_scope_of_every_layer(tiny: Model, tmp_path: Path):
    scope = train_suite(tiny, DOCUMENTS, SUITE, tmp_path)
    assert list(scope) == ["mlp_in.0", "mlp_in.1"] == scope.replacement
    assert scope.untrained == ("bos",)
    assert all(isinstance(coder.activation, JumpReLU) for coder in scope.coders.values())
    again = train_suite(tiny, DOCUMENTS, SUITE)
    assert all(torch.equal(old, new) for old, new in zip(weights(scope), weights(again), strict=True))
    resumed = train_suite(tiny, DOCUMENTS, SUITE, tmp_path)  # both stages are finished there
    assert all(torch.equal(old, new) for old, new in zip(weights(scope), weights(resumed), strict=True))


@pytest.mark.slow
def test_a_full_suite_has_every_kind_and_traces_with_its_transcoders(tiny: Model):
    scope = train_suite(tiny, DOCUMENTS, EVERYTHING)
    assert scope.replacement == ["mlp_in.0", "mlp_in.1"]
    kinds = {"clt": 1, "crosscoder": 1, "sae": 4, "transcoder": 4}
    assert {kind: [each.kind for each in scope.entries].count(kind) for kind in kinds} == kinds
    assert {each.tags for each in scope.entries if "affine" in each.name} == {("affine",)}
    found = evaluate(tiny, scope, DOCUMENTS)
    assert set(found["coders"]) == set(scope)
    assert found["recovered"] == found["sets"]["replacement"]["recovered"]


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


def gate(entry):
    return MLP if entry.kind == "sae" and entry.writes[0].kind == "mlp_out" else GATES[entry.kind]


@pytest.mark.slow
def test_the_shipped_scope_meets_its_aims(shipped):
    model, scope = shipped
    documents, answers = world_text(model, 1500, "held_out", 77)
    found = evaluate(model, scope, documents, answers, scope.replacement, alone=False)
    assert len(found["coders"]) == model.n_layers
    for facts in found["coders"].values():
        assert facts["fvu"] <= 0.10
        assert facts["l0"] <= 24
        assert facts["dead"] <= MOST_DEAD
    assert found["recovered"] >= 0.90
    assert found["recovered_answers"] >= 0.90


@pytest.mark.parametrize("name", hub.embedded("scope"))
def test_every_manifest_states_what_is_measured(name):
    scope = gw.load_scope(name)
    assert scope.metrics["recovered"] >= 0.90
    assert scope.metrics["recovered_answers"] >= 0.90
    assert set(scope.metrics["coders"]) == set(scope)
    for entry in scope.entries:
        facts, (fvu, l0) = scope.metrics["coders"][entry.name], gate(entry)
        l0 *= len(entry.reads) if entry.kind == "clt" else 1
        assert facts["fvu"] <= fvu
        assert facts["l0"] <= l0
        assert facts["dead"] <= MOST_DEAD


def test_it_is_labelled_with_evidence(shipped):
    model, scope = shipped
    for name, coder in scope.single.items():
        evidence = scope.evidence(name)
        assert evidence is not None
        assert len(scope.labels[name]) == coder.d_latent
        active = evidence.density > 0
        assert all(bool(label) == bool(on) for label, on in zip(scope.labels[name], active, strict=True))
        assert int(evidence.example_tokens.max()) < model.vocab_size


@pytest.mark.parametrize("name", hub.embedded("scope"))
def test_scopes_are_whole(name):
    artefacts.read(hub.resolve(name, "scope"), "scope").verify()


@pytest.mark.slow
def test_what_is_embedded_stays_small():
    """As a wheel stores it: each file compressed by itself."""
    files = [file for file in hub.EMBEDDED.rglob("*") if file.is_file()]
    assert sum(len(zlib.compress(file.read_bytes())) for file in files) <= 45e6
