"""`glassworks attention` and the targets of `glassworks trace`, as a user types them."""

import json
from pathlib import Path

import pytest

import glassworks as gw

PROMPT = "The capital of the state containing Dallas is"
pytestmark = pytest.mark.slow


def test_a_prompt_in_words(run):
    code, out, err = run("attention", PROMPT)
    assert code == 0, err
    assert "head 2.3  Dallas -> is" in out
    assert "looks from 'is' to 'Dallas'" in out
    assert "\n" in out.split("made of")[1]


def test_one_edge_and_one_head_as_json(run):
    code, out, err = run("attention", PROMPT, "--edge", "Dallas > Austin", "--head", "2.3", "--at", "-1,7", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert list(said) == ["prompt", "tokens", "edges", "scores"]
    (edge,), (score,) = said["edges"], said["scores"]
    for layer in edge["layers"]:
        assert abs(layer["below"] - edge["weight"]) < 1e-3  # no cross-layer features here
    assert (score["layer"], score["head"], score["query"], score["key"]) == (2, 3, 8, 7)
    assert abs(score["total"] - score["score"]) < 1e-3


def test_a_saved_graph_and_what_is_written(run, tmp_path):
    targets = ("--target", "Austin - Sacramento", "--target", "likely@5", "--target", "mlp_in.1/17@5")
    code, out, err = run("trace", PROMPT, *targets, "--attention", "--out", "here", "--json")
    assert code == 0, err
    files = json.loads(out)["files"]
    data = json.loads(Path(files["json"]).read_text())
    assert any("qk_tracing_results" in each for each in data["nodes"])
    assert '"attention":{"edges"' in Path(files["page"]).read_text()
    labels = gw.load_graph(files["graph"]).nodes.labels
    assert "Austin - Sacramento" in labels
    code, out, err = run("attention", "here", "--head", "2.3", "--out", "more", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert (said["scores"][0]["query"], said["scores"][0]["key"]) == (8, 7)
    assert {each.name for each in (tmp_path / "more").iterdir()} == {"graph.json", "graph.html"}


def test_a_model_without_coders_and_a_graph_of_others(run, data, tmp_path):
    folder = str(data / "models" / "gpt2-induction")
    code, out, err = run("attention", "qzkwjxqzk", "--model", folder, "--scope", "none", "--head", "1.0", "--json")
    assert code == 0, err
    assert json.loads(out)["scores"][0]["pairs"]
    data = gw.trace(gw.load_model("smallworld"), gw.load_scope("smallworld"), PROMPT).prune().to_json("x")
    (tmp_path / "x.json").write_text(json.dumps(data))
    code, _, err = run("attention", "x.json", "--model", "smallworld")
    assert code == 2
    assert "not traced by Glassworks" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("attention", "nowhere/at-all"), "no folder"),
        (("attention", PROMPT, "--edge", "Dallas"), "SOURCE > TARGET"),
        (("attention", PROMPT, "--edge", "no such label > Austin"), "No node"),
        (("attention", PROMPT, "--edge", "3 > 99999"), "reads nothing"),
        (("attention", PROMPT, "--head", "two"), "LAYER.HEAD"),
        (("attention", PROMPT, "--head", "9.9"), "no head"),
        (("attention", PROMPT, "--head", "2.3", "--at", "1,2"), "not after"),
        (("trace", PROMPT, "--target", "Austin@99", "--out", "here"), "no token 99"),
        (("trace", PROMPT, "--target", "mlp_in.1/99999@2", "--out", "here"), "there is no 99999"),
        (("trace", PROMPT, "--target", "direction:nowhere.npy:resid_post.1", "--out", "here"), "no file"),
        (("trace", PROMPT, "--target", "next:0", "--out", "here"), "1 or more"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, tmp_path, words, says):
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert says in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("glassworks: ")
    assert not list(tmp_path.iterdir())
