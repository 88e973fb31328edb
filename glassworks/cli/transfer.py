"""`glassworks transfer`: join two models, and carry what one has into the other.

align A B                a bridge: maps between their states, and which layers are partners
direction BRIDGE         a probe or steering vector of A in B, among random ones
coder BRIDGE SCOPE NAME  a coder of A in B, beside one trained from scratch
graft A B                a circuit of A that runs beside B: its nodes, maps and fitted gains
eval A B                 the same with every control, and a verdict
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from glassworks.cli.options import Json, show, spread, status, write_page
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.models import Model
    from glassworks.transfer import Bridge, PairedText, Setup

COUNT, GRAPHS = 2000, 12

app = typer.Typer(help="Join two models, and carry what one has into the other.", no_args_is_help=True)

Place = Annotated[Path, typer.Argument(help="A bridge, as `transfer align` wrote it.")]
Text = Annotated[
    list[str] | None,
    typer.Option("--text", "-t", help="Text files, folders or hf: data sets; an embedded world's own if unset."),
]
Prompts = Annotated[Path | None, typer.Option(help="A file of prompts of the domain, unanswered.")]
Count = Annotated[int, typer.Option(help="How many texts at the most.", min=5)]
Device = Annotated[str, typer.Option(help="Where to compute.")]


@app.command()
def align(
    a: Annotated[str, typer.Argument(help="Model A: a folder, an embedded name, or owner/name on the hub.")],
    b: Annotated[str, typer.Argument(help="Model B, of any size and tokenizer.")],
    text: Text = None,
    prompts: Prompts = None,
    count: Count = COUNT,
    sites: Annotated[str, typer.Option(help="Kinds of sites to join, with commas.")] = "resid_pre,resid_mid,resid_post",
    reach: Annotated[float, typer.Option(help="Join only layers whose relative depths differ by at most this.")] = 1.0,
    rows: Annotated[str, typer.Option(help="Tokens that count: text, all (with BOS), or the ends of texts.")] = "text",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bridge.")] = Path("bridge"),
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Make a bridge: run both models over the same text, and find the maps and layers that join them."""
    with status("Aligning ..."):
        from glassworks import transfer
        from glassworks.artefacts import check_output
        from glassworks.models import load_model

        check_output(out, "bridge")
        models = load_model(a, device=device), load_model(b, device=device)
        kinds = [kind for kind in sites.split(",") if kind]
        texts = _texts(*models, text or [], prompts, count)
        bridge = transfer.align(*models, texts, kinds, reach=reach, rows=rows)
        bridge.save(out)
        partners = []
        for site in (f"{kind}.{layer}" for layer in bridge.layers for kind in bridge.kinds):
            quality = bridge.quality(site)
            figures = {"r2_up": quality.up, "r2_down": quality.down, "cka": quality.cka}
            partners.append({"a": site, "b": str(bridge.partner(site)), **figures})
    facts = {"bridge": str(out), "a": bridge.a, "b": bridge.b, "rows": bridge.fit.rows + bridge.held.rows}
    facts |= {"held_out": bridge.held.rows, "layers": {str(a): b for a, b in bridge.layers.items()}}
    show(facts | {"sites": partners}, as_json)


@app.command()
def direction(
    place: Place,
    site: Annotated[str, typer.Option(help="Where the direction lies in A: resid_post.2.")],
    file: Annotated[Path | None, typer.Option("--direction", help="The direction: .npy or .safetensors.")] = None,
    high: Annotated[Path | None, typer.Option(help="A file of prompts that should read high.")] = None,
    low: Annotated[Path | None, typer.Option(help="A file of prompts that should read low.")] = None,
    to: Annotated[str, typer.Option(help="Where it shall lie in B; the matched layer if unset.")] = "",
    steer: Annotated[Path | None, typer.Option(help="A file of prompts to steer with it.")] = None,
    metric: Annotated[str, typer.Option(help="What steering should do: 'yes - no', two tokens.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File for what B reads and writes.")] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Carry a direction of A into B, and say where it stands among random directions of the same length."""
    from glassworks import transfer
    from glassworks.circuits import read_direction

    bridge = transfer.load_bridge(place)
    if (high is None) != (low is None) or (file is None and high is None):
        raise BadInput("Say which direction: --direction FILE, or prompts of two kinds with --high and --low.")
    if (steer is None) != (metric == ""):
        raise BadInput("To steer, give both --steer and --metric.")
    with status("Carrying ..."):
        models = _models(bridge, device)
        find, judge = _two_kinds(models, high, low, file is None)
        vector = read_direction(str(file)) if file else transfer.contrast(models[0], site, find[0])
        carried = transfer.carry_direction(bridge, site, vector, to or None)
        rows = [{"figure": "agreement of readings", "in A": 1.0, **carried.agreement.plain()}]
        if judge:
            at_home = transfer.discrimination(models[0], site, vector, judge[0], randoms=1)
            in_b = transfer.discrimination(models[1], carried.site_b, carried.read, judge[1])
            rows.append({"figure": "AUROC of prompts", "in A": at_home.value, **in_b.plain()})
        if steer:
            first, dash, second = metric.partition(" - ")
            if not dash:
                raise BadInput(f"The metric {metric!r} is not understood; write two tokens, as in 'yes - no'.")
            ids, prompts = [(m.token_id(first), m.token_id(second)) for m in models], _prompts(models, steer)
            at_home = transfer.steering(models[0], carried.site_a, vector, prompts[0], ids[0], randoms=1)
            in_b = transfer.steering(models[1], carried.site_b, carried.write, prompts[1], ids[1])
            rows.append({"figure": f"effect on {metric}", "in A": at_home.value, **in_b.plain()})
        if out:
            from safetensors.torch import save_file

            out.parent.mkdir(parents=True, exist_ok=True)
            save_file({"read": carried.read.contiguous(), "write": carried.write.contiguous()}, out)
    show({"direction": carried.site_a, "in B": carried.site_b, "figures": rows}, as_json)


@app.command()
def coder(
    place: Place,
    scope: Annotated[str, typer.Argument(help="A's scope: folder, embedded name, or owner/name on the hub.")],
    name: Annotated[str, typer.Argument(help="The coder to carry: resid_post.2.")],
    text: Text = None,
    prompts: Prompts = None,
    count: Count = COUNT,
    steps: Annotated[int, typer.Option(help="Batches to tune it, and to train its rival; 0 for neither.", min=0)] = 500,
    batch: Annotated[int, typer.Option(help="Tokens in each.", min=1)] = 1024,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the scope with that coder.")] = Path("scope"),
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Carry a coder of A into B, tune it, and set it beside one trained from scratch on the same tokens."""
    from glassworks.artefacts import check_output
    from glassworks.coders import Scope, load_scope, save_scope
    from glassworks.transfer import load_bridge, race

    check_output(out, "scope")
    with status("Carrying ..."):
        bridge, source = load_bridge(place), load_scope(scope).to(device)
        models = _models(bridge, device)
        paired = _texts(*models, text or [], prompts, count)
        texts = [str(text[1] if isinstance(text, tuple) else text) for text in paired]
        result = race(bridge, source[name], *models, texts, steps=steps, batch=batch, rate=rate)
        best = result.coders.get("carried and tuned", result.coders["carried"])
        best.rename(best.reads[0].name)
        save_scope(Scope(out.name, bridge.b, {best.id: best.cpu()}, [], untrained=source.untrained), out)
    show({"scope": str(out), "coder": best.id, "tokens": result.tokens, "coders": result.plain()}, as_json)


@final
@dataclass(frozen=True)
class GraftOptions:
    """The options of `graft` and `eval`."""

    a: Annotated[str, typer.Argument(help="Model A, which shows the behaviour.")]
    b: Annotated[str, typer.Argument(help="Model B, which does not.")]
    scope: Annotated[str, typer.Option("--scope", "-s", help="Scope of A: a folder, or an embedded name.")] = ""
    circuit: Annotated[Path | None, typer.Option(help="A circuit; cut from the task's prompts if unset.")] = None
    bridge: Annotated[Path | None, typer.Option(help="A bridge; made from the task's texts if unset.")] = None
    task: Annotated[Path | None, typer.Option(help="A task, JSON; refusal in the small world if unset.")] = None
    layers: Annotated[str, typer.Option(help="Layers of B that those of A read, 0,1,2,3; the bridge's if unset.")] = ""
    nodes: Annotated[int, typer.Option(help="Features of a circuit that is cut here.", min=1)] = 64
    each: Annotated[int, typer.Option(help="Demonstrations of each kind that gains are fitted to.", min=1, max=8)] = 8

    def setup(self) -> "Setup":
        """Models, circuit, bridge and task; what is not given is made."""
        from glassworks import transfer
        from glassworks.circuits import cut, load_circuit, reply_graphs, trace
        from glassworks.coders import load_scope
        from glassworks.models import load_model

        a, b, scope = load_model(self.a), load_model(self.b), load_scope(self.scope or self.a)
        parts = self.layers.split(",") if self.layers else []
        if parts and not (len(parts) == a.n_layers and all(p.isdecimal() and int(p) < b.n_layers for p in parts)):
            raise BadInput(
                f"The layers {self.layers!r} do not fit: write {a.n_layers} layers of {b.name} with commas, "
                f"each from 0 to {b.n_layers - 1}."
            )
        task = transfer.read_task(self.task) if self.task else transfer.world_task()
        if self.bridge:
            bridge = transfer.load_bridge(self.bridge)
        else:
            bridge = transfer.align(a, b, [*task.domain, *task.general], rows="all")
        if self.circuit:
            circuit = load_circuit(self.circuit)
        else:
            # What the task's train prompts share and its matched negatives lack; all heads go with it.
            wanted = reply_graphs(a, scope, task.wanted[:GRAPHS], task.reply)
            against = [trace(a, scope, prompt) for prompt in task.unwanted[:GRAPHS]]
            heads = [(layer, head) for layer in range(a.n_layers) for head in range(a.n_heads)]
            circuit = cut(wanted, self.nodes, heads, against, scope.name)
        return transfer.Setup(a, b, scope, circuit, bridge, task, tuple(map(int, parts)) if parts else None)


@app.command()
@spread
def graft(
    options: GraftOptions,
    scalars: Annotated[str, typer.Option(help="How many gains: one, group or node.")] = "one",
    say: Annotated[str, typer.Option(help="A prompt to continue with the graft at work.")] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the graft.")] = Path("graft"),
    as_json: Json = False,
) -> None:
    """Carry a circuit of A into B: its nodes run beside B, with gains fitted to a few demonstrations."""
    with status("Grafting ..."):
        from glassworks import transfer
        from glassworks.artefacts import check_output

        check_output(out, "graft")
        setup = options.setup()
        demonstrations = setup.task.demonstrations(options.each, 0)
        fitted = transfer.fit_gains(setup.graft, setup.b, demonstrations, transfer.Fitting(scalars))
        fitted.save(out)
        supernodes = []
        for name in fitted.groups:
            parts = [part for part in fitted.parts if part.group == name]
            gains = [float(gain) for part in parts for gain in part.gains]
            reads, mean = ", ".join(dict.fromkeys(part.source.name for part in parts)), sum(gains) / len(gains)
            supernodes.append({"supernode": name, "nodes": len(gains), "reads": reads, "mean gain": round(mean, 3)})
        facts: dict[str, Any] = {"graft": str(out), "a": fitted.a, "b": fitted.b, "nodes": len(fitted.gains)}
        facts |= {"supernodes": supernodes}
        if say:
            with setup.b.edit(fitted):
                facts["said"] = setup.b.generate(say)
    show(facts, as_json)


@app.command("eval")
@spread
def evaluate_graft(
    options: GraftOptions,
    base: Annotated[str, typer.Option(help="A without the behaviour, for proxy tuning.")] = "",
    native: Annotated[str, typer.Option(help="B trained to show the behaviour: the ceiling.")] = "",
    unrelated: Annotated[Path | None, typer.Option(help="A circuit of A that does something else.")] = None,
    splits: Annotated[int, typer.Option(help="How many times demonstrations are drawn.", min=2)] = 5,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("transfer-report"),
    page: Annotated[Path | None, typer.Option(help="Write the report as one HTML file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a transferred circuit with every control: behaviour, side effects, necessity, and a verdict."""
    with status("Evaluating ...") as line:
        from glassworks import transfer
        from glassworks.artefacts import check_output
        from glassworks.circuits import load_circuit
        from glassworks.models import load_model

        check_output(out, "transfer_report")
        setup = replace(
            options.setup(),
            base=load_model(base) if base else None,
            native=load_model(native) if native else None,
            unrelated=load_circuit(unrelated) if unrelated else None,
        )
        results = transfer.evaluate(setup, splits, options.each, report=lambda name: line.update(f"Evaluating: {name}"))
        results.save(out)
        if page is not None:
            write_page(page, transfer.protocol_page(results))
    rows = []
    for row in results.rows:
        rates = {name: f"{rate[0]:.2f}" for name, rate in row.rates.items()}
        rows.append({"system": row.name, **rates, "KL": f"{row.kl[0]:.4f}"})
    text = {"report": str(out), "systems": rows, "verdict": list(results.verdict)}
    show(results.plain() if as_json else text, as_json)


def _texts(a: "Model", b: "Model", text: list[str], prompts: Path | None, count: int) -> "list[PairedText]":
    """What to read: the user's text and prompts, or those of the small world for the models that learned it."""
    from glassworks import hub
    from glassworks.harvest import Corpus
    from glassworks.transfer import readable, world_texts

    domain = [*readable(a, b, Corpus((str(prompts),), separator="\n"))] if prompts else []
    if text:
        return [*readable(a, b, Corpus(tuple(text), documents=count)), *domain]
    strangers = [model.name for model in (a, b) if model.name not in (*hub.ALIASES, *hub.embedded())]
    if strangers:
        raise BadInput(f"Say with --text what both read; {strangers[0]} is no embedded model, which has its own.")
    return [*world_texts(count), *domain]


def _models(bridge: "Bridge", device: str) -> "tuple[Model, Model]":
    from glassworks.models import load_model

    models = load_model(bridge.a, device=device), load_model(bridge.b, device=device)
    bridge.check(*models)
    return models


def _two_kinds(models: "tuple[Model, Model]", high: Path | None, low: Path | None, find: bool) -> tuple[Any, Any]:
    """For A and for B, prompts of two kinds: those that find a direction, and those that judge it."""
    from glassworks.transfer import halves

    if high is None or low is None:
        return None, None
    (high_a, high_b), (low_a, low_b) = _prompts(models, high), _prompts(models, low)
    whole = ((high_a, low_a), (high_b, low_b))
    if not find:
        return None, whole
    cut = [[halves(prompts) for prompts in side] for side in whole]
    return tuple([tuple(half[number] for half in side) for side in cut] for number in (0, 1))  # pyright: ignore


def _prompts(models: "tuple[Model, Model]", file: Path) -> tuple[list[str], list[str]]:
    """Prompts as A and as B get them, one a line of a text, or one a record."""
    from glassworks.harvest import Corpus
    from glassworks.transfer import readable

    texts = [text for text in readable(*models, Corpus((str(file),), separator="\n")) if text]
    couples: list[Any] = [text if isinstance(text, tuple) else (text, text) for text in texts]
    if not couples:
        raise BadInput(f"The file {file} holds no prompts; write one a line.")
    return [couple[0] for couple in couples], [couple[1] for couple in couples]
