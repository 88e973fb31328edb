"""`glassworks transfer`: join two models, and carry what one has into the other.

align A B                a bridge: maps between their states, and which layers are partners
direction BRIDGE         a probe or steering vector of A in B, among random ones
coder BRIDGE SCOPE NAME  a coder of A in B, beside one trained from scratch
graft A B                a circuit of A that runs beside B; see `transfer_graft`
eval A B                 the same with every control, and a verdict
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, show
from glassworks.cli.transfer_graft import evaluate_graft, graft
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.models import Model
    from glassworks.transfer import Bridge, PairedText

COUNT = 2000

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
    from rich.console import Console

    with Console(stderr=True).status("Aligning ..."):
        from glassworks import transfer
        from glassworks.artefacts import check_output
        from glassworks.models import load_model

        check_output(out, "bridge")
        models = load_model(a, device=device), load_model(b, device=device)
        kinds = [each for each in sites.split(",") if each]
        texts = _texts(*models, text or [], prompts, count)
        bridge = transfer.align(*models, texts, kinds, reach=reach, rows=rows)
        bridge.save(out)
    show({"bridge": str(out), **_described(bridge)}, as_json)


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
    from rich.console import Console

    from glassworks import transfer
    from glassworks.circuits import read_direction

    bridge = transfer.load_bridge(place)
    if (high is None) != (low is None) or (file is None and high is None):
        raise BadInput("Say which direction: --direction FILE, or prompts of two kinds with --high and --low.")
    if (steer is None) != (metric == ""):
        raise BadInput("To steer, give both --steer and --metric.")
    with Console(stderr=True).status("Carrying ..."):
        models = _models(bridge, device)
        find, judge = _kinds(models, high, low, file is None)
        vector = read_direction(str(file)) if file else transfer.contrast(models[0], site, find[0])
        carried = transfer.carry_direction(bridge, site, vector, to or None)
        rows = [{"figure": "agreement of readings", "in A": 1.0, **carried.agreement.plain()}]
        if judge:
            at_home = transfer.discrimination(models[0], site, vector, judge[0], randoms=1)
            found = transfer.discrimination(models[1], carried.site_b, carried.read, judge[1])
            rows.append({"figure": "AUROC of prompts", "in A": at_home.value, **found.plain()})
        if steer:
            rows.append(_steered(models, carried, vector, _prompts(models, steer), metric))
        if out:
            _write(out, {"read": carried.read, "write": carried.write})
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
    from rich.console import Console

    from glassworks.artefacts import check_output
    from glassworks.coders import Scope, load_scope, save_scope
    from glassworks.transfer import load_bridge, race

    check_output(out, "scope")
    with Console(stderr=True).status("Carrying ..."):
        bridge, source = load_bridge(place), load_scope(scope).to(device)
        models = _models(bridge, device)
        paired = _texts(*models, text or [], prompts, count)
        texts = [str(each[1] if isinstance(each, tuple) else each) for each in paired]
        found = race(bridge, source[name], *models, texts, steps=steps, batch=batch, rate=rate)
        best = next(found.coders[each] for each in ("carried and tuned", "carried") if each in found.coders)
        best.rename(best.reads[0].name)
        save_scope(Scope(out.name, bridge.b, {best.id: best.cpu()}, [], untrained=source.untrained), out)
    show({"scope": str(out), "coder": best.id, "tokens": found.tokens, "coders": found.plain()}, as_json)


def _texts(a: "Model", b: "Model", text: list[str], prompts: Path | None, count: int) -> "list[PairedText]":
    """What to read: the user's text and prompts, or those of the small world for the models that learned it."""
    from glassworks import hub
    from glassworks.harvest import Corpus
    from glassworks.transfer import readable, world_texts

    asked = [*readable(a, b, Corpus((str(prompts),), separator="\n"))] if prompts else []
    if text:
        return [*readable(a, b, Corpus(tuple(text), documents=count)), *asked]
    strangers = [model.name for model in (a, b) if model.name not in (*hub.ALIASES, *hub.embedded())]
    if strangers:
        raise BadInput(f"Say with --text what both read; {strangers[0]} is no embedded model, which has its own.")
    return [*world_texts(count), *asked]


def _described(bridge: "Bridge") -> dict[str, Any]:
    partners = [
        {"a": f"{kind}.{layer}", "b": str(bridge.partner(f"{kind}.{layer}")), **_figures(bridge, f"{kind}.{layer}")}
        for layer in bridge.layers
        for kind in bridge.kinds
    ]
    told = {"a": bridge.a, "b": bridge.b, "rows": bridge.fit.rows + bridge.held.rows, "held_out": bridge.held.rows}
    return told | {"layers": {str(a): b for a, b in bridge.layers.items()}, "sites": partners}


def _figures(bridge: "Bridge", site: str) -> dict[str, float]:
    found = bridge.quality(site)
    return {"r2_up": found.up, "r2_down": found.down, "cka": found.cka}


def _models(bridge: "Bridge", device: str) -> "tuple[Model, Model]":
    from glassworks.models import load_model

    models = load_model(bridge.a, device=device), load_model(bridge.b, device=device)
    bridge.check(*models)
    return models


def _kinds(models: "tuple[Model, Model]", high: Path | None, low: Path | None, find: bool) -> tuple[Any, Any]:
    """Prompts of two kinds for A and for B: those that find a direction, and those that judge it."""
    from glassworks.transfer import halves

    if high is None or low is None:
        return None, None
    kinds = [_prompts(models, each) for each in (high, low)]
    whole = tuple((kinds[0][side], kinds[1][side]) for side in (0, 1))
    if not find:
        return None, whole
    cut = [[halves(prompts) for prompts in side] for side in whole]
    return tuple(tuple(tuple(each[half] for each in side) for side in cut) for half in (0, 1))  # pyright: ignore


def _prompts(models: "tuple[Model, Model]", file: Path) -> tuple[list[str], list[str]]:
    """Prompts as A and as B get them, one a line of a text, or one a record."""
    from glassworks.harvest import Corpus
    from glassworks.transfer import readable

    found = [each for each in readable(*models, Corpus((str(file),), separator="\n")) if each]
    couples: list[Any] = [each if isinstance(each, tuple) else (each, each) for each in found]
    if not couples:
        raise BadInput(f"The file {file} holds no prompts; write one a line.")
    return [each[0] for each in couples], [each[1] for each in couples]


def _steered(
    models: "tuple[Model, Model]", carried: Any, vector: Any, prompts: tuple[list[str], list[str]], metric: str
) -> dict[str, Any]:
    from glassworks.transfer import steering

    first, dash, second = metric.partition(" - ")
    if not dash:
        raise BadInput(f"The metric {metric!r} is not understood; write two tokens, as in 'yes - no'.")
    ids = [(model.token_id(first), model.token_id(second)) for model in models]
    at_home = steering(models[0], carried.site_a, vector, prompts[0], ids[0], randoms=1)
    found = steering(models[1], carried.site_b, carried.write, prompts[1], ids[1])
    return {"figure": f"effect on {metric}", "in A": at_home.value, **found.plain()}


def _write(out: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, out)


app.command()(graft)
app.command("eval")(evaluate_graft)
