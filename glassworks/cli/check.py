"""`glassworks check`: does a saved graph add up, and does it predict what edits of the real model do?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glassworks.cli.options import Json, opened

if TYPE_CHECKING:
    from glassworks.circuits import Check


def check(
    graph: Annotated[
        Path, typer.Argument(help="A graph's folder, as `trace` writes it, or a file of another program.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model, where the graph's name is not it.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option("--scope", "-s", help="The scope, where the graph's name is not it.")
    ] = None,
    interventions: Annotated[int, typer.Option("--interventions", "-n", help="How many features are silenced.")] = 32,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Check a graph against its model: exit code 1 where a law does not hold."""
    from rich.console import Console

    from glassworks.coders import load_scope
    from glassworks.models import load_model

    loaded = opened(graph, load_scope(scope) if scope else None)
    with Console(stderr=True).status("Changing the model ..."):
        real = load_model(model or loaded.model)
        found = loaded.check(real, interventions=interventions, seed=seed)
    print(json.dumps(found.plain(), ensure_ascii=False)) if as_json else _print(found)
    raise typer.Exit(0 if found.passed else 1)


def _print(found: "Check") -> None:
    """Heading and text of every finding."""
    from rich.console import Console

    edges, replay, circuit = found.direct, found.replay, found.silenced
    known = found.residual == found.residual
    lines = [("Rows", f"add up to within {found.residual:.0e}" if known else "of another program, without biases")]
    if edges is not None:
        sources = ", ".join(f"{count} {kind}s" for kind, count in edges.sources.items())
        text = f"{edges.pairs:,} of {sources}: the frozen model differs by {edges.worst:.0e} of a row at the most"
        lines.append(("Edges", text))
    if replay is not None:
        errors = "keeps" if replay.agrees else "changes"
        text = f"features, errors and biases rebuild the logits to within {replay.logits:.0e}; "
        lines.append(("Replay", f"{text}leaving the errors out {errors} the first token (KL {replay.divergence:.3f})"))
    for mode, effects in found.effects.items():
        text = f"outcomes r {effects.outcomes}, chance up to {effects.shuffled:.2f}; features r {effects.features}; "
        lines.append((f"Predicted, {mode}", f"{text}random features' outcomes r {effects.random}"))
    if circuit is not None:
        text = f"{circuit.size} strongest features move the outcomes by {circuit.circuit:.3g}; as many random ones by "
        mean, most = sum(circuit.random) / len(circuit.random), max(circuit.random)
        text += f"{mean:.3g}, {most:.3g} at the most (p {circuit.p:.2f})"
        lines.append(("Silenced", text))
    lines += [*(("Wrong", failure) for failure in found.failures), ("Passed", "yes" if found.passed else "no")]
    console = Console(highlight=False, soft_wrap=True)
    for heading, text in lines:
        console.print(f"[bold]{heading}[/bold]  ", end="")
        console.print(text, markup=False)
