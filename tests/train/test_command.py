"""`glassworks train`: from a store, from a model, dry, and begun from what exists."""

import json

import pytest

from glassworks.coders import load_scope

TEXT = "The plural of cat is cats .\nOne plus two is three .\nThe capital of France is Paris .\n" * 20
SHORT = ["width=16", "l0=3", "steps=4", "batch=64", "rate=1e-3"]


@pytest.fixture
def store(run, tmp_path):
    (tmp_path / "corpus.txt").write_text(TEXT)
    words = ["--text", "corpus.txt", "--separator", "\n", "--sites", "resid_post,mlp_in,mlp_out", "--layers", "0,1"]
    assert run("harvest", "smallworld", *words, "--out", "store")[0] == 0
    return tmp_path


@pytest.mark.slow
def test_a_store_becomes_a_scope(run, store):
    dry = run("train", "store", "kind=sae,clt", *SHORT, "--dry-run", "--json")
    assert json.loads(dry[1])["coders"] == 7
    assert not (store / "scope").exists()
    code, out, _ = run("train", "store", "kind=clt", *SHORT, "--json")
    assert code == 0
    assert json.loads(out)["coders"][0]["coder"] == "clt"
    scope = load_scope(store / "scope")
    assert scope.model == "smallworld"
    assert scope.replacement == ["clt"]
    assert "bos" in scope.untrained
    assert scope.metrics["coders"]["clt"]["tokens"] > 0
    assert (store / "scope.training" / "metrics.jsonl").is_file()
    assert run("train", "store", "kind=clt", *SHORT, "--start", "scope", "--out", "again", "--json")[0] == 0
    code, _, err = run("train", "store", "kind=clt", "l0=3", "width=16", "ratte=3")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.slow
def test_a_model_and_text_need_no_store(run, tmp_path):
    (tmp_path / "corpus.txt").write_text(TEXT)
    code, out, err = run("train", "smallworld", "--text", "corpus.txt", "sites=resid_post.1", *SHORT, "--json")
    assert code == 0, err
    assert [each["coder"] for each in json.loads(out)["coders"]] == ["resid_post.1"]
