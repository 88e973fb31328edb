"""`glassworks check`, `summary`, `batch`, `diff` and `weights` as typed, on the embedded model."""

import json
from pathlib import Path

import pytest
import torch

import glassworks as gw
from glassworks.circuits import load_aggregate

CITIES = ("Dallas", "Oakland", "Miami", "Houston", "Seattle")
PROMPTS = [f"The capital of the state containing {city} is" for city in CITIES]


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> Path:
    """A graph on disk."""
    folder = tmp_path_factory.mktemp("graphs") / "dallas" / "graph"
    gw.trace(gw.load_model("smallworld"), gw.load_scope("smallworld"), PROMPTS[0]).save(folder)
    return folder


@pytest.mark.slow
def test_a_right_graph_passes(run, traced):
    code, out, err = run("check", str(traced.parent), "--interventions", "4", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["passed"] is True
    assert said["residual"] <= 1e-5
    assert said["direct"]["worst"] <= 1e-5
    assert set(said["effects"]) == {"attention frozen", "live"}
    code, out, _ = run("check", str(traced), "--interventions", "4")
    assert code == 0
    assert "add up to within" in out
    assert "Passed  yes" in out


@pytest.mark.slow
def test_a_wrong_graph_does_not_pass(run, traced, tmp_path):
    graph = gw.load_graph(traced)
    columns = graph.nodes.of("embedding")[: graph.matrix.shape[1]]
    matrix = torch.where(columns, graph.matrix / 12, graph.matrix)
    gw.Graph.build(graph.origin, graph.nodes, matrix, graph.bias, graph.values).save(tmp_path / "wrong")
    code, out, _ = run("check", str(tmp_path / "wrong"), "--interventions", "4")
    assert code == 1
    assert "Wrong  The rows do not add up" in out
    assert "Passed  no" in out


@pytest.mark.slow
def test_a_summary_in_words_and_as_json(run, traced):
    code, out, _ = run("summary", str(traced))
    assert code == 0
    assert "'Austin'" in out
    assert "replacement" in out
    said = json.loads(run("summary", str(traced), "--faithfulness", "0.5", "--json")[1])
    assert said["minimal"]["faithfulness"] >= 0.5
    assert any("Texas" in label for label in said["minimal"]["labels"])
    assert len(said["groups"]) > 1


@pytest.mark.slow
def test_graphs_go_from_format_to_format(run, traced, data, tmp_path):
    graph = gw.load_graph(traced)
    assert run("export", str(traced.parent), "whole.npz")[0] == 0
    assert gw.load_graph(tmp_path / "whole.npz").n_edges == graph.n_edges
    code, _, err = run("export", "whole.npz", "small.json")
    assert code == 0, err
    said = json.loads((tmp_path / "small.json").read_text())
    assert len(said["nodes"]) < len(graph.nodes)
    assert run("export", str(traced), "page.html")[0] == 0
    assert (tmp_path / "page.html").read_text().lstrip().startswith("<!")
    theirs = str(data / "golden_graphs" / "mini_llama_plt" / "graph.pt")
    assert run("export", theirs, "ours")[0] == 0
    assert gw.load_graph(tmp_path / "ours").n_edges > 0
    assert json.loads(run("info", theirs, "--json")[1])["nodes"]["feature"] == 126


@pytest.mark.slow
def test_a_batch_is_traced_aggregated_and_tested(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join([*PROMPTS[:2], "", "Dallas is in", "Oakland is in"]))
    (tmp_path / "unseen.txt").write_text("\n".join(PROMPTS[2:]))
    words = ["batch", str(tmp_path / "prompts.txt"), "--unseen", str(tmp_path / "unseen.txt"), "--out", "out"]
    code, out, err = run(*words, "--json", "--size", "4")
    assert code == 0, err
    said = json.loads(out)
    assert set(said) == {"aggregate", "prediction", "folder"}
    assert len(said["prediction"]["circuit"]) == 4
    names = sorted(each.name for each in (tmp_path / "out").iterdir())
    assert len(names) == 5
    assert load_aggregate(tmp_path / "out" / "aggregate").prompts == (*PROMPTS[:2], "Dallas is in", "Oakland is in")
    graphs = [str(tmp_path / "out" / name) for name in names[:2]]
    found = json.loads(run("diff", *graphs, "--json")[1])
    assert 0 < found["similarity"] < 1
    assert "similarity" in run("diff", *graphs, "--by", "label")[1]


@pytest.mark.slow
def test_weights_name_what_feeds_a_feature(run, traced, tmp_path):
    graph = gw.load_graph(traced)
    strong = [number for number in graph.influence.argsort(descending=True).tolist() if graph.nodes[number].layer == 3]
    index = next(graph.nodes[number].index for number in strong if graph.nodes[number].kind == "feature")
    (tmp_path / "text.txt").write_text("\n".join(PROMPTS))
    code, out, err = run("weights", f"mlp_in.3/{index}", "--text", str(tmp_path / "text.txt"), "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["active"] >= 1
    assert said["sources"][0]["coder"] in ("mlp_in.0", "mlp_in.1", "mlp_in.2")
    assert run("weights", f"mlp_in.3/{index}", "--text", str(tmp_path / "text.txt"))[0] == 0


WRONG = {
    "check nothing": (["check", "nowhere"], "nowhere"),
    "too few interventions": (["check", "{graph}", "--interventions", "1"], "interventions"),
    "summary of a pickle that means harm": (["summary", "{pickle}"], "not a readable .pt"),
    "batch without a file": (["batch", "nowhere.txt"], "nowhere.txt"),
    "batch of an empty file": (["batch", "{empty}"], "no prompts"),
    "export as a pickle": (["export", "{graph}", "graph.pt"], ".json or .npz"),
    "diff by colour": (["diff", "{graph}", "{graph}", "--by", "colour"], "feature or label"),
    "weights of no feature": (["weights", "mlp_in.2", "--text", "{text}"], "mlp_in.2/17"),
    "weights of a first layer": (["weights", "mlp_in.0/0", "--text", "{text}"], "Nothing feeds"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gets_one_line_and_code_2(run, traced, tmp_path, case):
    words, says = WRONG[case]
    (tmp_path / "bad.pt").write_bytes(b"cos\nsystem\n.")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "text.txt").write_text(PROMPTS[0])
    places = {
        "graph": traced,
        "pickle": tmp_path / "bad.pt",
        "empty": tmp_path / "empty.txt",
        "text": tmp_path / "text.txt",
    }
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*(word.format(**places) for word in words))
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert says in err
    assert sorted(tmp_path.rglob("*")) == before
