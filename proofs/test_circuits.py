"""Circuits of real models: how much of them is explained, and do they predict what edits of the model do?

Two public models of children's stories get transcoders for every MLP from our own trainer, and 20 prompts each that
these never saw are traced and checked. The small world has a task of which 20 circuits predict edits on unseen prompts.
Every size stands here and was fixed before the first run. Stores, checkpoints and the figures of each prompt are kept
in a folder (`GLASSWORKS_PROOFS`, else in the folder for temporary files), so a run that was stopped goes on.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import glassworks as gw
from glassworks import smallworld, stats
from glassworks.circuits import explain_attention, predict, traces
from glassworks.circuits.check import json_values
from glassworks.coders import load_scope, save_scope
from glassworks.harvest import Reading, Rows, harvest, load_store
from glassworks.train import Trainer, fit, grid, layouts

DATA = Path(os.environ.get("GLASSWORKS_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
KEPT = Path(os.environ.get("GLASSWORKS_PROOFS", Path(tempfile.gettempdir()) / "glassworks-proofs")) / "circuits"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "circuits.json"
MODELS = ("stories260K", "babyllama-char361")
STORIES, ROWS, WIDTH, L0, BATCH, STEPS, NUMBERS = 300, 100_000, 512, 16, 256, 2000, {"rate": 2e-3, "anneal": 4.0}
PROMPTS, TOKENS, INTERVENTIONS, HEADS = 20, 24, 12, 3
SIZE, MOST_RESIDUAL, MOST_HEADS = 8, 1e-5, 1e-4
SETTINGS = {
    "training": {"stories": STORIES, "rows": ROWS, "width": WIDTH, "l0": L0, "batch": BATCH, "steps": STEPS},
    "graphs": {"prompts": PROMPTS, "tokens": TOKENS, "interventions": INTERVENTIONS, "attention_of": HEADS},
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def stories() -> list[str]:
    file = DATA / "text" / "tinystories_1000.json"
    if not file.is_file():
        pytest.skip(f"no stories at {file}; set GLASSWORKS_TEST_DATA")
    return json.loads(file.read_text(encoding="utf-8"))


def add(keep, name: str, figures: dict[str, Any]) -> None:
    """Put one test's figures among those of the others."""
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    old.pop("versions", None)
    keep("circuits", json_values(old | {name: figures}))


def trained(model: gw.Model, texts: list[str], folder: Path) -> tuple[Any, dict[str, Any]]:
    """Transcoders of every MLP, from a store of activations, and what they reach on rows as they occur."""
    if (folder / "scope").is_dir():
        return load_scope(folder / "scope"), json.loads((folder / "coders.json").read_text())
    sites = [site for kind in ("mlp_in", "mlp_out") for site in model.sites(kind)]
    harvest(model, texts, sites, folder / "store", Reading(untrained=("bos",), rows=ROWS))
    stream = Rows(load_store(folder / "store"), BATCH, 0.0, 1)
    specs = grid("batchtopk", layouts("transcoder", sites), stream, STEPS, [WIDTH], [L0], numbers=NUMBERS)
    trainer = fit(Trainer(specs, stream), folder / "training", resume=True, save_seconds=30.0)
    scope = trainer.scope(f"{model.name}-transcoders", model.name)
    measured = trainer.measure(scope, 16)
    facts = {name: {key: each[key] for key in ("fvu", "l0", "dead")} for name, each in measured.items()}
    (folder / "coders.json").write_text(json.dumps(facts))
    save_scope(scope, folder / "scope")
    return scope, facts


def held_out(model: gw.Model, texts: list[str]) -> list[list[int]]:
    """The beginnings of the last stories' second paragraphs: first ones all begin with the same words."""
    found = []
    for text in reversed(texts[STORIES:]):
        later = text.split("\n\n")[1:]
        tokens = model.tokens(later[0][: 8 * TOKENS]).tolist() if later else []
        if len(tokens) >= TOKENS and len(found) < PROMPTS:
            found.append(tokens[:TOKENS])
    return found


def loads(model: gw.Model, scope: Any, graph: gw.Graph) -> float:
    """How far heads and what passes them by are from the edges into the likeliest outcome, of its row's size."""
    row = int(graph.edges.weights.argmax())
    size = float(graph.matrix[int((graph.rows == row).nonzero()[0])].abs().sum())
    edges = explain_attention(model, graph, scope).into(row)
    return max(float((edge.heads.sum(1) + edge.passes - edge.below).abs().max()) for edge in edges) / size


def figures_of(model: gw.Model, scope: Any, tokens: list[int], number: int) -> dict[str, Any]:
    """What is told of one prompt."""
    graph = gw.trace(model, scope, tokens)
    found = graph.check(model, scope, interventions=INTERVENTIONS, seed=number)
    return {
        "replacement": graph.replacement,
        "completeness": graph.completeness,
        "features": int(graph.nodes.of("feature").sum()),
        "conservation": float(graph.conservation.max()),
        "heads": loads(model, scope, graph) if number < HEADS else None,
        "check": found.plain(),
    }


def told(numbers: Sequence[float | None]) -> dict[str, Any]:
    """Mean of what is known, with its interval over the prompts."""
    values = torch.tensor([each for each in numbers if each is not None])
    mean = stats.mean(values)
    return {"mean": mean.value, "low": mean.low, "high": mean.high, "prompts": len(values)}


def summary(each: list[dict[str, Any]]) -> dict[str, Any]:
    """What the prompts' checks say together."""
    checks = [one["check"] for one in each]
    modes = {
        mode: {
            what: {value: told([one["effects"][mode][what][value] for one in checks]) for value in ("r", "slope")}
            for what in ("outcomes", "features", "random")
        }
        | {"shuffled": told([one["effects"][mode]["shuffled"] for one in checks])}
        for mode in checks[0]["effects"]
    }
    silenced = [one["silenced"] for one in checks]
    mean_random = [sum(one["random"]) / len(one["random"]) for one in silenced]
    return {
        "replacement": told([one["replacement"] for one in each]),
        "completeness": told([one["completeness"] for one in each]),
        "features": told([float(one["features"]) for one in each]),
        "worst_conservation": max(one["conservation"] for one in each),
        "worst_heads": max(one["heads"] for one in each if one["heads"] is not None),
        "worst_replay_of_logits": max(one["replay"]["logits"] for one in checks),
        "without_errors_the_same_token": told([float(one["replay"]["agrees"]) for one in checks]),
        "worst_direct_edge": max(one["direct"]["worst"] for one in checks),
        "direct": told([one["direct"]["correlation"]["r"] for one in checks]),
        "effects": modes,
        "circuit_silenced": told([one["circuit"] for one in silenced]),
        "random_silenced": told(mean_random),
        "passed": [sum(one["passed"] for one in checks), len(checks)],
        "failures": sorted({sentence for one in checks for sentence in one["failures"]}),
    }


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.timeout(7200)
def test_graphs_of_unseen_prompts(name, stories, keep):
    if not (DATA / "models" / name).is_dir():
        pytest.skip(f"no model {name} in {DATA}")
    model, folder = gw.load_model(str(DATA / "models" / name)), KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    scope, coders = trained(model, stories[:STORIES], folder)
    prompts, each = held_out(model, stories), []
    for number, tokens in enumerate(prompts):
        file = folder / f"prompt-{number}.json"
        if not file.is_file():
            file.write_text(json.dumps(figures_of(model, scope, tokens, number)))
        each.append(json.loads(file.read_text()))
    found = summary(each)
    add(
        keep,
        name,
        {"settings": SETTINGS, "coders": coders, **found, "conservation": [one["conservation"] for one in each]},
    )
    assert len(each) == PROMPTS
    assert found["failures"] == []
    assert found["worst_conservation"] <= MOST_RESIDUAL
    assert found["worst_heads"] <= MOST_HEADS
    assert found["direct"]["low"] > 0.999


@pytest.fixture(scope="module")
def prediction():
    """What circuits of seen prompts predict on unseen ones; made before `_one_thread` of a test is."""
    torch.set_num_threads(1)
    model, scope, draw = gw.load_model("smallworld"), gw.load_scope("smallworld"), Random(0)
    seen, unseen = (
        [each.prompt for each in draw.sample(smallworld.two_hop_prompts(split), PROMPTS)]
        for split in ("train", "held_out")
    )
    return predict(model, scope, traces(model, scope, seen), unseen, size=SIZE)


@pytest.mark.timeout(3600)
def test_circuits_of_a_task_predict_edits_on_unseen_prompts(prediction, keep):
    settings = {"task": "composed", "seen": PROMPTS, "unseen": PROMPTS, "size": SIZE}
    add(keep, "prediction", {"settings": settings, **asdict(prediction)})
    assert prediction.predicted.clusters >= PROMPTS // 2
    assert prediction.predicted.low > 0
    assert prediction.moved[1] > prediction.moved_random[2]


@pytest.mark.xfail(reason="with the scope that ships now, features that all prompts share foretell little")
def test_they_predict_these_edits_better_than_random_ones(prediction):
    assert prediction.better[1] > 0
