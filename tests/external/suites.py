"""Suites on small real models, and the same coders trained by other libraries on the same batches.

    python tests/external/suites.py [FOLDER [MODEL ...]]

One harvest per model fills a store; Glassworks trains SAEs on the residual stream and transcoders of every layer, three
sparsities each, from it. dictionary_learning trains the same SAEs and sparsify the same transcoders (no library
trains both) on the same rows in the same order, each in its own environment in FOLDER (default: build/external). All
are measured by `experiments` on held-out text. Figures go to benchmarks/results/suites.json, curves to suites.html.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from run import ROOT, environment
from safetensors.torch import save_file
from torch import Tensor

from glassworks import experiments, load_model, load_scope, pages
from glassworks.coders import Scope, Shelf, Transcoder, entry_of
from glassworks.harvest import Contexts, Reading, Statistics, Store, Storing, Stream, harvest
from glassworks.models import Model
from glassworks.pages import Point
from glassworks.train import Spec, Trainer, fit, grid, layouts

HERE, RESULTS = Path(__file__).resolve().parent, ROOT / "benchmarks" / "results"
DATA = ROOT.parent / "shared" / "data"
MODELS = ("stories260K", "babyllama-char361")
PEERS = {"sae": "dictionary_learning", "transcoder": "sparsify"}
WIDTH, SPARSITIES = 512, (8, 16, 32)
STEPS, BATCH, ROWS = 400, 1024, 100_000
HELD_OUT, CONTEXTS = 24, 32
"""Stories at the end of the file that nothing trains on, and how many contexts of them are measured."""
FIGURES = ("l0", "fvu", "dead", "dense")
OF_LOSS = ("recovered", "kl")


@final
class Ordered(Stream):
    """The rows of a store in an order that other libraries can be given too."""

    def __init__(self, store: Store, order: Tensor) -> None:
        self.store, self.order, self.step = store, order, 0
        self.batch, self.widths = order.shape[1], store.widths

    def draw(self) -> dict[str, Tensor]:
        """The next batch; after the last one comes the first."""
        rows = self.order[self.step % len(self.order)]
        self.step += 1
        return {site: self.store.take(site, rows) for site in self.widths}

    def state(self) -> dict[str, Tensor]:
        """Its place."""
        return {"step": torch.tensor(self.step)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to a place."""
        self.step = int(state["step"])

    def statistics(self, site: str) -> Statistics:
        """Moments of the whole store."""
        return self.store.statistics(site)


def specs(model: Model, stream: Stream) -> list[Spec]:
    """The coders of a suite."""
    ends = {"sae": model.sites("resid_post"), "transcoder": model.sites("mlp_in") + model.sites("mlp_out")}
    made = [grid("topk", layouts(kind, sites), stream, STEPS, [WIDTH], SPARSITIES) for kind, sites in ends.items()]
    return [spec for its in made for spec in its]


def peers(suite: list[Spec], store: Store, order: Tensor, home: Path, folder: Path) -> dict[str, float]:
    """Let the other libraries train a suite; returns the seconds that each kind took."""
    sites = {site: store.read(site).contiguous() for site in store.sites}
    save_file(sites | {"order": order}, home / "rows.safetensors")
    seconds = {}
    for kind, library in PEERS.items():
        chosen = [each for each in suite if each.layout.kind == kind]
        plan = [
            {
                "name": each.name.replace("/", "-"),
                "read": each.layout.reads[0].name,
                "write": each.layout.writes[0].name,
                "k": int(each.l0 or 0),
                "width": WIDTH,
            }
            for each in chosen
        ]
        (home / f"{library}.json").write_text(json.dumps(plan))
        began = time.perf_counter()
        script = HERE / f"train_{library}.py"
        subprocess.run([environment(folder, library), script, home, home / f"{library}.json"], check=True)
        seconds[kind] = time.perf_counter() - began
    return seconds


def theirs(suite: list[Spec], home: Path, name: str) -> Scope:
    """What the other libraries trained, under our names."""
    coders, entries = {}, []
    for each in suite:
        layout = each.layout
        loaded = load_scope(home / PEERS[layout.kind] / each.name.replace("/", "-"))
        found = loaded[loaded.entries[0].name]
        coder = Transcoder(layout.reads[0], layout.writes[0], found.activation, found.weights())
        coder.requires_grad_(False).rename(each.name)
        coders[each.name] = coder
        entries.append(replace(entry_of(each.name, coder), l0=f"{each.l0:g}", target=each.l0))
    return Scope("peers", name, Shelf(entries, coders), [], untrained=("bos",))


def texts() -> tuple[list[str], list[str]]:
    """Stories to train on, and held-out ones; with single line breaks, as the models' corpus has them."""
    found = json.loads((DATA / "text" / "tinystories_1000.json").read_text(encoding="utf-8"))
    clean = [story.replace("\n\n", "\n") for story in found]
    return clean[:-HELD_OUT], clean[-HELD_OUT:]


def suite(name: str, folder: Path) -> dict[str, Any]:
    """Harvest, train, let others train, measure."""
    home = folder / "suites" / name
    home.mkdir(parents=True, exist_ok=True)
    model, (training, held_out) = load_model(DATA / "models" / name), texts()
    sites = [site for kind in ("resid_post", "mlp_in", "mlp_out") for site in model.sites(kind)]
    reading = Reading(context=256, rows=ROWS)
    store = harvest(model, training, sites, home / "store", reading, Storing("float32"))
    assert store is not None
    order = torch.randint(len(store.tokens), (STEPS, BATCH), generator=torch.Generator().manual_seed(0))
    stream = Ordered(store, order)
    coders = specs(model, stream)
    began = time.perf_counter()
    scope = fit(Trainer(coders, stream)).scope(name, name)
    seconds = {"glassworks": time.perf_counter() - began} | peers(coders, store, order, home, folder)
    documents = [each.tokens for each in Contexts(model, held_out, Reading(context=256))][:CONTEXTS]
    ours, others = (experiments.evaluate(model, each, documents) for each in (scope, theirs(coders, home, name)))
    return {"seconds": seconds, "members": dict(rows(ours, others)), "sets": dict(together(ours, others))}


def rows(ours: dict[str, Any], others: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each member's figures, ours and theirs."""
    for name, mine in ours["coders"].items():
        yield name, {"ours": figures(mine), "theirs": figures(others["coders"][name])}


def together(ours: dict[str, Any], others: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What all layers replaced at once recover."""
    for name, mine in ours["sets"].items():
        pair = {"ours": mine, "theirs": others["sets"][name]}
        yield name, {who: {each: facts[each] for each in OF_LOSS} for who, facts in pair.items()}


def figures(facts: dict[str, Any]) -> dict[str, float]:
    """Those of a coder that are compared."""
    return {each: facts[each] for each in FIGURES} | {each: facts["loss"][each] for each in OF_LOSS}


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Mean over members of our FVU relative to theirs, by model and kind; 1 is equal, less is better."""
    means = {}
    for name, model in found.items():
        for kind, start in (("sae", "resid_post"), ("transcoder", "mlp_in")):
            pairs = [each for member, each in model["members"].items() if member.startswith(start)]
            means[f"{name} {kind}"] = sum(each["ours"]["fvu"] / each["theirs"]["fvu"] for each in pairs) / len(pairs)
    return means


def page(found: dict[str, Any]) -> str:
    """Curves of L0 against FVU and of divergence: a panel a site, a line a library; and all figures."""
    body = []
    for name, model in found.items():
        for words, figure in (("FVU", "fvu"), ("KL, nats a token", "kl")):
            panels: dict[str, dict[str, list[Point]]] = {}
            for member, pair in model["members"].items():
                site = member.partition("/")[0]
                library = PEERS["sae" if site.startswith("resid") else "transcoder"]
                for who, line in (("ours", "glassworks"), ("theirs", library)):
                    point = Point(pair[who]["l0"], pair[who][figure], member)
                    panels.setdefault(site, {}).setdefault(line, []).append(point)
            body.append(pages.section(f"{name}: L0 against {words}", panels, "L0", words))
        lines = [{"coder": f"{member}, {who}"} | pair[who] for member, pair in model["members"].items() for who in pair]
        body.append(pages.table(lines, ("coder", *FIGURES, *OF_LOSS)))
    return pages.document("Suites: the same rows, the same steps", body)


def main() -> int:
    """Run all suites and write what was found."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/external").resolve()
    torch.set_num_threads(1)
    for name in sys.argv[2:] or MODELS:
        (folder / "suites" / f"{name}.json").write_text(json.dumps(suite(name, folder), indent=1))
    done = {name: folder / "suites" / f"{name}.json" for name in MODELS}
    found = {name: json.loads(file.read_text()) for name, file in done.items() if file.is_file()}
    setting = {
        "width": WIDTH,
        "steps": STEPS,
        "batch": BATCH,
        "rows": ROWS,
        "held_out_stories": HELD_OUT,
        "contexts": CONTEXTS,
    }
    result = {"setting": setting, "fvu_ratio": ratios(found), "models": found}
    (RESULTS / "suites.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "suites.html").write_text(page(found), encoding="utf-8")
    print(json.dumps(result["fvu_ratio"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
