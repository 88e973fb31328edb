"""`glassworks evaluate` as typed: figures, files, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from glassworks import hub, load_model, load_scope
from glassworks.experiments import evaluation_page, fidelity
from glassworks.harvest import Storing, harvest, load_store
from tests.markup import Tags


@pytest.fixture
def scope(tmp_path) -> Path:
    return Path(shutil.copytree(hub.resolve("smallworld", "scope"), tmp_path / "copied"))


@pytest.mark.slow
def test_an_embedded_scope_is_measured_on_its_own_text(run, scope):
    code, out, err = run("evaluate", str(scope), "--tokens", "600", "--save", "--page", "p.html", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found["coders"]) == set(load_scope(scope))
    assert all(0 < each["fvu"] < 0.5 and 0 < each["l0"] < 40 for each in found["coders"].values())
    assert 0.5 < found["sets"]["replacement"]["recovered"] <= 1.01
    kept = load_scope(scope).metrics
    assert kept["coders"] == found["coders"]
    assert "recipe" in kept  # what was known before stays
    tags = Tags()
    tags.feed(Path("p.html").read_text(encoding="utf-8"))
    assert not tags.open
    assert tags.count["circle"] == 2 * len(found["coders"])


def test_text_and_coders_can_be_chosen(run, scope):
    Path("text.txt").write_text("The capital of France is Paris. " * 40)
    code, out, err = run("evaluate", str(scope), "--text", "text.txt", "--coders", "mlp_in.1", "--tokens", "200")
    assert code == 0, err
    assert "mlp_in.1" in out
    assert "mlp_in.2" not in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--coders", "mlp_in.99"], "has no coder that reads mlp_in.99"),
        (["--text", "absent.txt"], "absent.txt does not exist"),
        (["--model", "nothing-like-it"], "nothing-like-it"),
    ],
)
def test_mistakes_are_one_line(run, scope, words, says):
    code, _, err = run("evaluate", str(scope), *words)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_a_page_escapes_names():
    facts = {"reads": ["mlp_in.0"], "writes": ["mlp_out.0"], "l0": 3.0, "fvu": 0.1, "dead": 0.0, "dense": 0.0}
    written = evaluation_page({"coders": {"<script>": facts | {"histogram": [0, 2]}}}, "a & b")
    assert "<script>" not in written
    assert "&lt;script&gt;" in written
    assert "a &amp; b" in written


def test_a_store_is_measured_without_its_model(run, scope):
    model, coders = load_model("smallworld"), load_scope(scope)
    sites = ["mlp_in.1", "mlp_out.1"]
    text = ["The capital of France is Paris. Dallas is in Texas."] * 12
    harvest(model, text, sites, "store", storing=Storing("float32"))
    code, out, err = run("evaluate", str(scope), "--text", "store", "--coders", "mlp_in.1", "--json")
    assert code == 0, err
    found = json.loads(out)["coders"]["mlp_in.1"]
    assert "loss" not in found
    stored = load_store("store")
    values = {site: stored.read(site) for site in sites}
    assert found["fvu"] == pytest.approx(fidelity(coders["mlp_in.1"], values).fvu, rel=1e-5)
