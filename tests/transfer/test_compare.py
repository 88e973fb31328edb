"""`glassworks compare` as typed, the pages, and graphs compared through partners."""

import json
from pathlib import Path

import pytest
import torch

from glassworks import load_model, load_scope, trace
from glassworks.errors import BadInput, NotFound
from glassworks.smallworld import stream
from glassworks.transfer import Dictionary, match_features, scale_features, wiring
from tests.markup import Tags

FEW = ("--count", "24", "--coders", "mlp_in.1")


def tags(file: str) -> dict[str, int]:
    parser = Tags()
    parser.feed(Path(file).read_text(encoding="utf-8"))
    assert not parser.open
    return parser.count


@pytest.fixture(scope="module")
def texts() -> list[str]:
    drawn = stream(1001, 0, "held_out")
    return [next(drawn).text for _ in range(80)]


def test_a_model_against_itself_shares_everything(run):
    Path("prompts.txt").write_text('The opposite of "hot" is "\n')
    words = ("compare", "smallworld-s", "smallworld-s", "--count", "40", "--prompts", "prompts.txt", "--page", "p.html")
    code, out, err = run(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [row["r"][0] for row in found["a_in_b"]["coders"]] == pytest.approx([1.0] * 4, abs=1e-4)
    assert found["a_in_b"]["coders"][-1]["found"][0] > 0.9
    assert found["written"]["mean"][0] == pytest.approx(1.0, abs=0.05)
    assert found["wiring"]["kept"][0] > 0.8 > found["wiring"]["chance"]
    assert found["wiring"]["signs"] > 0.9
    assert found["scaling"]["median_rebuilt"] == pytest.approx(1.0, abs=1e-3)
    assert found["scaling"]["median_leftover"] < 0.5  # A's own part is not taken out of what its coder rebuilds
    counted = tags("p.html")
    assert counted["svg"] >= 5
    assert counted["table"] >= 8


def test_layers_of_one_model(run):
    code, out, err = run("compare", "smallworld-s", "--count", "60", "--page", "p.html", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [step["upper"] for step in found["steps"]] == ["mlp_in.1", "mlp_in.2"]
    assert all(step["chained"] > 0 and 0 < step["going_on"][0] < 1 for step in found["steps"])
    assert all(len(chain["features"]) > 1 for chain in found["chains"])
    assert tags("p.html")["rect"] >= 6


@pytest.mark.slow
def test_several_models_are_held_against_each_other(run):
    models = ("smallworld-s", "smallworld-m", "smallworld-s")
    code, out, err = run("compare", *models, *FEW, "--page", "p.html")
    assert code == 0, err
    assert "smallworld-s in smallworld-m" in out
    assert "r of random features" in out
    assert tags("p.html")["h1"] == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["smallworld-s", "smallworld-m", "--coders", "mlp_in.99"], "has no coder 'mlp_in.99'"),
        (["smallworld-s", "smallworld-m", "--scope-b", "x", "--scope-b", "y"], "2 models and 3 scopes"),
        (["smallworld-s", "--prompts", "p.txt"], "are about two models"),
        (["smallworld-s", "smallworld-m", "--text", "one.txt"], "8 at least are needed"),
        (["smallworld-s", "--coders", "mlp_in.1"], "one coder at each of several layers"),
        (["smallworld-s", "smallworld-m", "--crosscoder", "smallworld-s"], "more or other than one crosscoder"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run, words, says):
    Path("one.txt").write_text("The capital of France is Paris.")
    code, _, err = run("compare", *words, "--count", "9", "--page", "p.html")
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("p.html").exists()


def test_scaling_refuses_strangers_and_parts(texts):
    small, scope = load_model("smallworld-s"), load_scope("smallworld-s")
    with pytest.raises(BadInput, match="do not share a basis"):
        scale_features(small, load_model("smallworld-m"), (scope, scope), texts)
    with pytest.raises(NotFound, match="there are"):
        Dictionary.of(scope, "zzz")


def test_graphs_of_other_prompts_are_refused(texts):
    model, scope = load_model("smallworld-s"), load_scope("smallworld-s")
    found = match_features(model, model, (scope, scope), texts, "mlp_in.1")
    assert torch.equal(found.forward.r, found.backward.r)
    graphs = [trace(model, scope, prompt) for prompt in ("The capital of France is", "The capital of Spain is")]
    with pytest.raises(BadInput, match="different prompts"):
        wiring(graphs[:1], graphs[1:], found.forward)


def test_coders_are_chosen_by_name_site_or_kind():
    scope = load_scope("smallworld-m")
    joint = [name for name in scope if len(scope[name].parts) > 1]
    assert Dictionary.of(scope).names == tuple(scope.replacement)
    assert Dictionary.of(scope, "mlp_in.1").names == ("mlp_in.1",)
    reading = Dictionary.of(scope, "mlp_in")
    assert {site.kind for site in reading.sites} == {"mlp_in"}
    assert set(scope.replacement) <= set(reading.names)
    for name in joint:
        assert len(Dictionary.of(scope, name).names) == len(scope[name].parts)
    assert reading.name(reading.starts[1]) == f"{reading.names[1]}/0"
