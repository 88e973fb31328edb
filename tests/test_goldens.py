"""Goldens: what the package computed and wrote before it was rebuilt; none of it may move.

    python -m tests.test_goldens graph evaluation training keys     makes these goldens anew
    python -m tests.test_goldens artefacts       writes artefacts of schema 1 anew; never needed while schema 1 is read

Figures are held to 1e-6, ends of intervals are not looked at, and JSON is compared by its keys. A training is compared
bit by bit on the kind of processor that made the golden, and closely on others.
"""

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import glassworks as gw
from glassworks import cli
from glassworks.circuits import Circuit, Group, load_circuit
from glassworks.coders import JumpReLU, Scope, Transcoder, save_scope
from glassworks.edits import FeatureRef, ablate, add_vector, load_edits, save_edits
from glassworks.harvest import Reading, harvest
from glassworks.models import Model
from glassworks.transfer import align, load_bridge
from tests.tiny import tiny_gemma3

FOLDER = Path(__file__).parent / "goldens"
DALLAS, OAKLAND = (f"The capital of the state containing {city} is" for city in ("Dallas", "Oakland"))
TEXT = "The plural of cat is cats .\nOne plus two is three .\nThe capital of France is Paris .\n" * 20
SMALL = "smallworld-s"


def call(*words: str) -> Any:
    """Run a command with `--json` in this process; returns the object that it printed."""
    out, err, code = io.StringIO(), io.StringIO(), None
    before, sys.argv = sys.argv, ["glassworks", *words, "--json"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    assert code in (0, None), (words, code, err.getvalue())
    return json.loads(out.getvalue())


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """An empty folder with a few texts, in which commands run."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            Path("text.txt").write_text(TEXT)
            Path("pair.txt").write_text(f"{DALLAS}\n{OAKLAND}\n")
            Path("unseen.txt").write_text(
                "".join(f"The capital of the state containing {each} is\n" for each in CITIES)
            )
            Path("high.txt").write_text("cat\ndog\nhouse\nsun")
            Path("low.txt").write_text("one\ntwo\nthree\nfour")
            yield Path(place)
        finally:
            os.chdir(before)


CITIES = ("Houston", "Fresno", "Miami")


# The graph of a prompt: nodes exactly, edges and scores to 1e-6.


def graph_figures() -> dict[str, np.ndarray]:
    graph = gw.trace(gw.load_model("smallworld"), gw.load_scope("smallworld"), DALLAS)
    matrix, numbers = graph.matrix.double(), graph.nodes
    strongest = matrix.abs().flatten().topk(400).indices
    scores = [graph.replacement, graph.completeness, graph.unexplored, float(graph.residual or 0)]
    pruned = graph.prune()
    tensors = {
        "rows": graph.rows,
        "row_sums": matrix.sum(1),
        "row_sizes": matrix.abs().sum(1),
        "column_sums": matrix.sum(0),
        "strongest": strongest,
        "strongest_edges": matrix.flatten()[strongest],
        "bias": graph.bias,
        "values": graph.values,
        "influence": graph.influence,
        "scores": torch.tensor(scores[:3], dtype=torch.float64),
        "counts": torch.tensor([len(numbers), graph.n_edges, len(pruned.nodes), pruned.n_edges]),
        "kinds": torch.tensor([int(numbers.of(kind).sum()) for kind in ("embedding", "feature", "error", "logit")]),
    }
    assert scores[3] <= 1e-4
    return {name: value.numpy() for name, value in tensors.items()}


def test_the_graph_of_a_prompt_is_the_same():
    golden, now = dict(np.load(FOLDER / "graph.npz")), graph_figures()
    assert set(now) == set(golden)
    order = np.argsort(now.pop("strongest")), np.argsort(golden.pop("strongest"))
    now["strongest_edges"], golden["strongest_edges"] = (
        now["strongest_edges"][order[0]],
        golden["strongest_edges"][order[1]],
    )
    for name, value in golden.items():
        np.testing.assert_allclose(now[name], value, rtol=1e-5, atol=1e-6 * max(1, np.abs(value).max()), err_msg=name)


# Fidelity of coders on the embedded world's text.


def evaluation_figures() -> dict[str, Any]:
    return call("evaluate", SMALL, "--tokens", "600")


def same_figures(now: Any, golden: Any, path: str = "") -> None:
    """Compare two JSON values: numbers to 1e-6; of intervals, whose ends are drawn, the keys only."""
    if isinstance(golden, dict):
        assert set(now) == set(golden), path
        for key in golden:
            same_figures(now[key], golden[key], f"{path}/{key}")
    elif "/intervals/" in path:
        assert type(now) is type(golden), path
    elif isinstance(golden, list):
        assert len(now) == len(golden), path
        for number, each in enumerate(golden):
            same_figures(now[number], each, f"{path}/{number}")
    elif isinstance(golden, float):
        assert now == pytest.approx(golden, rel=1e-5, abs=1e-6), path
    else:
        assert now == golden, path


def test_figures_of_an_evaluation_are_the_same():
    same_figures(json.loads(json.dumps(evaluation_figures())), json.loads((FOLDER / "evaluation.json").read_text()))


# A training, from the harvest to the written scope.


def processor() -> str:
    """A short name of this kind of processor and this build of torch, on which sums are rounded alike."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.is_file() else None
    facts = (platform.machine(), model and model[1], torch.backends.cpu.get_cpu_capability(), torch.__version__)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def train(recipe: str, *words: str) -> dict[str, torch.Tensor]:
    short = ["width=24", "l0=3", "steps=6", "batch=64", "rate=3e-3"]
    call("train", "store", *words, *short, "--recipe", recipe, "--out", f"scope-{recipe}")
    files = sorted(Path(f"scope-{recipe}").rglob("*.safetensors"))
    return {f"{recipe}/{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}


def training_figures() -> dict[str, np.ndarray]:
    with working_folder():
        sites = ["--sites", "mlp_in,mlp_out", "--layers", "0,1"]
        call("harvest", SMALL, "--text", "text.txt", "--separator", "\n", *sites, "--out", "store")
        tensors = train("batchtopk", "kind=transcoder,clt") | train("gemma_scope_2", "kind=transcoder", "fires=6.5")
    return {name: value.contiguous().float().numpy() for name, value in tensors.items()}


def digests(tensors: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: hashlib.sha256(value.tobytes()).hexdigest()[:16] for name, value in tensors.items()}


def norms(tensors: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: [float(np.linalg.norm(value)), float(value.sum())] for name, value in tensors.items()}


def test_a_training_is_the_same():
    golden, now = json.loads((FOLDER / "training.json").read_text()), training_figures()
    assert set(now) == set(golden["norms"])
    for name, value in norms(now).items():
        assert value == pytest.approx(golden["norms"][name], rel=1e-3, abs=1e-3), name
    if processor() == golden["processor"]:
        assert digests(now) == golden["digests"]


# JSON of every command: its keys.


def keys_of(value: Any) -> Any:
    """The keys of a JSON value, recursively; those of a list's elements together."""
    if isinstance(value, dict):
        return {key: keys_of(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [merged] if (merged := merge([keys_of(each) for each in value])) else []
    return None


def merge(trees: list[Any]) -> Any:
    dicts, lists = (
        [each for each in trees if isinstance(each, dict)],
        [each for each in trees if isinstance(each, list)],
    )
    if dicts:
        names = sorted({key for each in dicts for key in each})
        return {key: merge([each[key] for each in dicts if key in each]) for key in names}
    return [merged] if lists and (merged := merge([inner for each in lists for inner in each])) else None


def fast_keys() -> dict[str, Any]:
    short = ["kind=transcoder", "width=16", "l0=3", "steps=4", "batch=64", "rate=1e-3"]
    world, text = ["--model", SMALL], ["--reference", "text.txt", "--tokens", "1"]
    stored = ["--text", "text.txt", "--separator", "\n", "--sites", "mlp_in,mlp_out", "--layers", "0,1"]
    commands = {
        "models": ["models"],
        "info of a model": ["info", SMALL],
        "scopes": ["scope"],
        "scope": ["scope", SMALL],
        "trace": ["trace", DALLAS, *world, "--out", "g", "--attention"],
        "trace again": ["trace", OAKLAND, *world, "--out", "h"],
        "info of a graph": ["info", "g/graph"],
        "attention": ["attention", "g", "--head", "1.3", "--at", "-1,7"],
        "summary": ["summary", "g", "--faithfulness", "0.3"],
        "check": ["check", "g", "--interventions", "4"],
        "diff": ["diff", "g", "h"],
        "batch": ["batch", "pair.txt", *world, "--unseen", "unseen.txt", "--size", "2", "--out", "many"],
        "weights": ["weights", "mlp_in.1/17", *world, "--text", "pair.txt"],
        "compare of two": ["compare", SMALL, SMALL, "--count", "20", "--coders", "mlp_in.1"],
        "compare of one": ["compare", SMALL, "--count", "20", "--coders", "mlp_in"],
        "steer": ["steer", DALLAS, *world, "--like", OAKLAND, "--save", "edits.json", *text],
        "ablate": ["ablate", DALLAS, *world, "--head", "0.1", "--edits", "edits.json", *text],
        "sweep": ["sweep", DALLAS, *world, "--like", OAKLAND, "--amounts", "0,1", "--reference", "pair.txt"],
        "patch": ["patch", DALLAS, OAKLAND, *world],
        "patch of heads": ["patch", DALLAS, OAKLAND, *world, "--heads"],
        "evaluate": ["evaluate", SMALL, "--tokens", "300", "--coders", "mlp_in.1"],
        "harvest, dry": ["harvest", SMALL, *stored, "--out", "store", "--dry-run"],
        "harvest": ["harvest", SMALL, *stored, "--out", "store"],
        "train, dry": ["train", "store", *short, "--dry-run"],
        "train": ["train", "store", *short],
        "info of a scope": ["info", "scope"],
        "transfer align": ["transfer", "align", SMALL, SMALL, "--count", "60", "--sites", "resid_post,mlp_in,mlp_out"],
        "transfer direction": [
            *("transfer", "direction", "bridge", "--site", "resid_post.1"),
            *("--high", "high.txt", "--low", "low.txt", "--steer", "low.txt", "--metric", "I - Sure"),
        ],
    }
    with working_folder():
        return {name: keys_of(call(*words)) for name, words in commands.items()}


@pytest.mark.slow
def test_every_command_prints_the_same_keys():
    assert fast_keys() == json.loads((FOLDER / "keys.json").read_text())


# Artefacts of schema 1, as they lay on disks before.

ARTEFACTS = FOLDER / "schema1"


def tiny() -> Model:
    return Model(tiny_gemma3(31), name="tiny")


def write_artefacts() -> None:
    """Write a scope, a graph, a circuit, a store, a bridge and edits of the tiny model."""
    model, coders = tiny(), {}
    for layer in range(2):
        torch.manual_seed(layer)
        weights = {"w_enc": torch.randn(8, 16), "b_enc": torch.zeros(8), "w_dec": torch.randn(8, 16) / 4}
        sites = gw.Site("mlp_in", layer), gw.Site("mlp_out", layer)
        coders[f"mlp_in.{layer}"] = Transcoder(*sites, JumpReLU(torch.ones(8)), weights | {"b_dec": torch.zeros(16)})
    scope = Scope("tiny", "tiny", coders, list(coders))
    save_scope(scope, ARTEFACTS / "scope")
    gw.trace(model, scope, [1, 5, 9, 5]).save(ARTEFACTS / "graph")
    documents = [[1, *range(2 + number % 5, 16 + number % 3)] for number in range(12)]
    harvest(model, documents, ["mlp_in.0", "mlp_out.0"], ARTEFACTS / "store", Reading(untrained=()))
    groups = (Group("a", (FeatureRef("mlp_in.0", None, 3),)), Group("heads.1", heads=((1, 0),)))
    Circuit("tiny", "tiny", groups, {("a", "heads.1"): 0.5}, ("text",)).save(ARTEFACTS / "circuit")
    align(model, model, documents, ["resid_post"]).save(ARTEFACTS / "bridge")
    edits = [ablate([FeatureRef("mlp_in.1", None, 3)], scope), add_vector("resid_post.0", torch.arange(16) / 8.0)]
    save_edits(ARTEFACTS / "edits.json", edits, model, scope)
    (ARTEFACTS / "expected.json").write_text(json.dumps(artefact_figures(), indent=1) + "\n")


def artefact_figures() -> dict[str, Any]:
    """Load each and reduce it to a few numbers."""
    model, scope, graph = tiny(), gw.load_scope(ARTEFACTS / "scope"), gw.load_graph(ARTEFACTS / "graph")
    store, bridge = gw.load_store(ARTEFACTS / "store"), load_bridge(ARTEFACTS / "bridge")
    circuit = load_circuit(ARTEFACTS / "circuit")
    named = Scope("tiny", "tiny", {name: scope[name] for name in scope}, scope.replacement)  # not after its folder
    edits = load_edits(ARTEFACTS / "edits.json", model, named)
    tokens = [1, 5, 9, 5]
    clean = model.capture(tokens, ["mlp_in.1", "logits"])
    with model.edit(*edits):
        edited = model.capture(tokens, ["logits"])["logits"]
    return {
        "coders": list(scope),
        "latents": scope["mlp_in.1"].encode(clean["mlp_in.1"]).dense().sum(1).tolist(),
        "nodes": len(graph.nodes),
        "edges": float(graph.matrix.double().sum()),
        "replacement": graph.replacement,
        "rows": len(store.tokens),
        "stored": [float(store.read(site).double().sum()) for site in store.sites],
        "groups": {group.name: [str(feature) for feature in group.features] for group in circuit.groups},
        "map": float(bridge.up("resid_post.1")(clean["mlp_in.1"]).double().sum()),
        "logits": float(clean["logits"].double().sum()),
        "edited": float(edited.double().sum()),
    }


def test_artefacts_of_schema_1_load():
    same_figures(artefact_figures(), json.loads((ARTEFACTS / "expected.json").read_text()))


MAKERS: dict[str, Callable[[], None]] = {
    "graph": lambda: np.savez_compressed(FOLDER / "graph.npz", **graph_figures()),
    "evaluation": lambda: write("evaluation", evaluation_figures()),
    "training": lambda: write("training", describe(training_figures())),
    "keys": lambda: write("keys", fast_keys()),
    "artefacts": write_artefacts,
}


def describe(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"processor": processor(), "norms": norms(tensors), "digests": digests(tensors)}


def write(name: str, value: Any) -> None:
    (FOLDER / f"{name}.json").write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for golden in sys.argv[1:]:
        MAKERS[golden]()
