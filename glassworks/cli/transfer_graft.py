"""`glassworks transfer graft` and `transfer eval`: carry a circuit into another model, and find out whether it was it.

graft A B --circuit DIR --bridge DIR   a graft: the circuit's nodes, maps and fitted gains
eval A B --circuit DIR --bridge DIR    the whole protocol with every control, as JSON and a page
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, show, write_page
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.coders import Scope
    from glassworks.models import Model
    from glassworks.transfer import Setup

A = Annotated[str, typer.Argument(help="Model A, which shows the behaviour.")]
B = Annotated[str, typer.Argument(help="Model B, which does not.")]
ScopeOfA = Annotated[str, typer.Option("--scope", "-s", help="Scope of A: a folder, or an embedded name.")]
CircuitOf = Annotated[Path | None, typer.Option("--circuit", help="A circuit; cut from the task's prompts if unset.")]
BridgeOf = Annotated[Path | None, typer.Option("--bridge", help="A bridge; made from the task's texts if unset.")]
TaskOf = Annotated[Path | None, typer.Option("--task", help="A task, JSON; refusal in the small world if unset.")]
Layers = Annotated[str, typer.Option(help="Layers of B that those of A read, 0,1,2,3; the bridge's if unset.")]
Each = Annotated[int, typer.Option(help="Demonstrations of each kind that gains are fitted to.", min=1, max=8)]
Nodes = Annotated[int, typer.Option(help="Features of a circuit that is cut here.", min=1)]
GRAPHS = 12


def graft(
    a: A,
    b: B,
    scope: ScopeOfA = "",
    circuit: CircuitOf = None,
    bridge: BridgeOf = None,
    task: TaskOf = None,
    layers: Layers = "",
    scalars: Annotated[str, typer.Option(help="How many gains: one, group or node.")] = "one",
    each: Each = 8,
    nodes: Nodes = 64,
    say: Annotated[str, typer.Option(help="A prompt to continue with the graft at work.")] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the graft.")] = Path("graft"),
    as_json: Json = False,
) -> None:
    """Carry a circuit of A into B: its nodes run beside B, with gains fitted to a few demonstrations."""
    from rich.console import Console

    with Console(stderr=True).status("Grafting ..."):
        from glassworks import transfer
        from glassworks.artefacts import check_output

        check_output(out, "graft")
        setup = _setup((a, b), scope, circuit, bridge, task, (layers, nodes))
        shown = setup.task.demonstrations(each, 0)
        found = transfer.fit_gains(setup.graft, setup.b, shown, transfer.Fitting(scalars))
        found.save(out)
        facts: dict[str, Any] = {"graft": str(out), "a": found.a, "b": found.b, "nodes": len(found.gains)}
        facts |= {"supernodes": [_group(found, name) for name in found.groups]}
        if say:
            with setup.b.edit(found):
                facts["said"] = setup.b.generate(say)
    show(facts, as_json)


def evaluate_graft(
    a: A,
    b: B,
    scope: ScopeOfA = "",
    circuit: CircuitOf = None,
    bridge: BridgeOf = None,
    task: TaskOf = None,
    layers: Layers = "",
    nodes: Nodes = 64,
    base: Annotated[str, typer.Option(help="A without the behaviour, for proxy tuning.")] = "",
    native: Annotated[str, typer.Option(help="B trained to show the behaviour: the ceiling.")] = "",
    unrelated: Annotated[Path | None, typer.Option(help="A circuit of A that does something else.")] = None,
    splits: Annotated[int, typer.Option(help="How many times demonstrations are drawn.", min=2)] = 5,
    each: Each = 8,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("transfer-report"),
    page: Annotated[Path | None, typer.Option(help="Write the report as one HTML file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a transferred circuit with every control: behaviour, side effects, necessity, and a verdict."""
    from dataclasses import replace

    from rich.console import Console

    with Console(stderr=True).status("Evaluating ...") as status:
        from glassworks import transfer
        from glassworks.artefacts import check_output
        from glassworks.circuits import load_circuit
        from glassworks.models import load_model

        check_output(out, "transfer_report")
        setup = _setup((a, b), scope, circuit, bridge, task, (layers, nodes))
        others = {"base": load_model(base) if base else None, "native": load_model(native) if native else None}
        setup = replace(setup, **others, unrelated=load_circuit(unrelated) if unrelated else None)
        found = transfer.evaluate(setup, splits, each, report=lambda name: status.update(f"Evaluating: {name}"))
        found.save(out)
        if page is not None:
            write_page(page, transfer.protocol_page(found))
    rows = [
        {"system": row.name, **{name: f"{each[0]:.2f}" for name, each in row.rates.items()}, "KL": f"{row.kl[0]:.4f}"}
        for row in found.rows
    ]
    show(found.plain() if as_json else {"report": str(out), "systems": rows, "verdict": list(found.verdict)}, as_json)


def _setup(
    names: tuple[str, str],
    scope: str,
    circuit: Path | None,
    bridge: Path | None,
    task: Path | None,
    more: tuple[str, int],
) -> "Setup":
    from glassworks import transfer
    from glassworks.circuits import load_circuit
    from glassworks.coders import load_scope
    from glassworks.models import load_model

    layers, nodes = more
    a, b, coders = load_model(names[0]), load_model(names[1]), load_scope(scope or names[0])
    read = _layers(layers, a, b)
    asked = transfer.read_task(task) if task else transfer.world_task()
    joined = (
        transfer.load_bridge(bridge) if bridge else transfer.align(a, b, [*asked.domain, *asked.general], rows="all")
    )
    found = load_circuit(circuit) if circuit else _cut(a, coders, asked, nodes)
    return transfer.Setup(a, b, coders, found, joined, asked, read)


def _cut(a: "Model", scope: "Scope", task: Any, nodes: int) -> Any:
    """The circuit that the task's train prompts share, and look-alikes lack; all heads go with it."""
    from glassworks.circuits import cut, reply_graphs, trace

    wanted = reply_graphs(a, scope, task.wanted[:GRAPHS], task.reply)
    against = [trace(a, scope, prompt) for prompt in task.unwanted[:GRAPHS]]
    heads = [(layer, head) for layer in range(a.n_layers) for head in range(a.n_heads)]
    return cut(wanted, nodes, heads, against, scope.name)


def _layers(text: str, a: "Model", b: "Model") -> tuple[int, ...] | None:
    if not text:
        return None
    parts = text.split(",")
    fits = len(parts) == a.n_layers and all(each.isdecimal() and int(each) < b.n_layers for each in parts)
    if not fits:
        raise BadInput(
            f"The layers {text!r} do not fit: write {a.n_layers} layers of {b.name} with commas, "
            f"each from 0 to {b.n_layers - 1}."
        )
    return tuple(int(each) for each in parts)


def _group(found: Any, name: str) -> dict[str, Any]:
    stations = [each for each in found.parts if each.group == name]
    gains = [float(gain) for each in stations for gain in each.gains]
    reads = ", ".join(dict.fromkeys(each.source.name for each in stations))
    return {"supernode": name, "nodes": len(gains), "reads": reads, "mean gain": round(sum(gains) / len(gains), 3)}
