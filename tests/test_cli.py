"""The command line, as a new user types it: what it prints, what it writes, what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

import glassworks as gw
from glassworks import __version__, hub

PROMPT = "The capital of the state containing Dallas is"


def test_version(run):
    assert run("--version") == (0, f"glassworks {__version__}\n", "")


def test_help_names_every_verb(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(verb in out for verb in ("trace", "serve", "models", "info", "smallworld"))


@pytest.mark.slow
def test_trace_says_and_writes_what_it_found(run, tmp_path):
    code, out, err = run("trace", PROMPT, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert list(said) == ["model", "scope", "prompt", "tokens", "predictions", "graph", "paths", "files"]
    assert said["predictions"][0]["token"].strip() == "Austin"
    assert said["predictions"][0]["probability"] > 0.5
    assert said["graph"]["replacement"] >= 0.5
    assert said["graph"]["conservation"] <= 1e-4
    assert set(said["graph"]) >= {"nodes", "edges", "features", "completeness", "seconds"}
    texts = [path["text"] for path in said["paths"]]
    assert any("Dallas" in text and "Texas" in text and "Austin" in text for text in texts)
    graph = gw.load_graph(said["files"]["graph"])
    assert len(graph.nodes) == said["graph"]["nodes"]
    assert json.loads(Path(said["files"]["json"]).read_text())["metadata"]["prompt"]
    assert Path(said["files"]["page"]).read_text().lstrip().startswith("<!")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["graphs"]


@pytest.mark.slow
def test_a_budget_truncates_and_the_rest_goes_on(run, tmp_path):
    out = ("--out", str(tmp_path / "here"))
    code, said, err = run("trace", PROMPT, *out, "--rows", "30", "--seconds", "1000", "--memory", "1GB")
    assert code == 0, err
    assert "Truncated" in said
    part = gw.load_graph(tmp_path / "here" / "graph")
    assert part.truncated
    assert 0 < part.unexplored < 1
    code, said, err = run("trace", PROMPT, *out, "--resume", "--json")
    assert code == 0, err
    facts = json.loads(said)["graph"]
    assert facts["unexplored"] <= 1e-6
    assert facts["rows"] > len(part.rows)


@pytest.mark.parametrize("wrong", [("--memory", "1kB"), ("--rows", "-1"), ("--seconds", "0"), ("--memory", "much")])
def test_budgets_that_cannot_be_kept_are_refused(run, tmp_path, wrong):
    code, out, err = run("trace", PROMPT, *wrong)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_trace_in_words(run, tmp_path):
    code, out, _ = run("trace", PROMPT, "--target", "Austin", "--out", str(tmp_path / "here"), "--open")
    assert code == 0
    assert "Austin" in out
    assert "replacement" in out
    assert {each.name for each in (tmp_path / "here").iterdir()} == {"graph", "graph.json", "graph.html"}


@pytest.mark.slow
def test_a_model_without_coders_is_traced_through_attention(run, data):
    folder = str(data / "models" / "gpt2-induction")
    code, out, err = run("trace", "abcabca", "--model", folder, "--scope", "none", "--json")
    assert code == 0, err
    assert json.loads(out)["graph"]["features"] == 0


def test_models_lists_the_embedded_one_and_the_families(run):
    code, out, _ = run("models", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["default"] in [each["name"] for each in said["embedded"]]
    assert {"gemma3", "llama", "gpt2"} <= set(said["families"])
    assert "gemma3" in run("models")[1]


def test_info_tells_models_scopes_and_graphs_apart(run, data, smallworld):
    assert json.loads(run("info", "smallworld", "--json")[1])["family"] == "gemma3"
    assert "coders" in json.loads(run("info", str(hub.resolve("smallworld", "scope")), "--json")[1])
    graph = str(data / "graphs" / "gemma-2-2b" / "bee-insect-clt.json")
    assert json.loads(run("info", graph, "--json")[1])["nodes"]["feature"] > 0
    assert "d_model" in run("info", str(smallworld))[1]


def broken(tmp_path, smallworld, name: str, content: bytes) -> str:
    folder = tmp_path / "broken"
    shutil.copytree(smallworld, folder)
    (folder / name).write_bytes(content)
    return str(folder)


WRONG = {
    "unknown model": (["trace", "x", "--model", "smallwrld"], "smallworld"),
    "unknown repository": (["trace", "x", "--model", "nobody/nothing"], "hub cannot be reached"),
    "model without a scope": (["trace", "x", "--model", "{model}"], "--scope"),
    "unknown scope": (["trace", "x", "--scope", "nothing"], "nothing"),
    "a model as a scope": (["trace", "x", "--scope", "{model}"], "not a scope"),
    "empty prompt": (["trace", ""], "empty"),
    "long prompt": (["trace", "a " * 5000], "context"),
    "unknown target": (["trace", PROMPT, "--target", "Atlantis City"], "Atlantis City"),
    "corrupt weights": (["trace", "x", "--model", "{broken}", "--scope", "none"], "cannot be read"),
    "graph of another schema": (["info", "{other}"], "not an attribution graph"),
    "no graph": (["info", "{text}"], "none of these"),
    "output is a file": (["trace", PROMPT, "--out", "{text}"], "text.txt"),
    "serve nothing": (["serve", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gets_one_line_and_code_2(run, tmp_path, smallworld, case):
    words, says = WRONG[case]
    (tmp_path / "other.json").write_text('{"weather": "fine"}')
    (tmp_path / "text.txt").write_text("text")
    places = {
        "model": str(smallworld),
        "other": str(tmp_path / "other.json"),
        "text": str(tmp_path / "text.txt"),
        "broken": broken(tmp_path, smallworld, "model.safetensors", b"no weights"),
    }
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*(word.format(**places) for word in words))
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("glassworks: ")
    assert says in err
    assert sorted(tmp_path.rglob("*")) == before, "something half-written was left behind"
