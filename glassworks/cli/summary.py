"""`glassworks summary`: a saved graph in plain sentences, its groups, and the fewest features that suffice."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from glassworks.cli.options import Json, opened


def summary(
    graph: Annotated[Path, typer.Argument(help="A graph's folder, or a file of another program.")],
    faithfulness: Annotated[
        float | None, typer.Option("--faithfulness", help="Find the features that keep so much of the outcome, 0 to 1.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model for it, if not the graph's.")] = None,
    scope: Annotated[str | None, typer.Option("--scope", "-s", help="Its scope, if not the graph's.")] = None,
    as_json: Json = False,
) -> None:
    """Describe a graph in plain sentences."""
    name, loaded = scope, opened(graph)
    result: dict[str, Any] = {"summary": loaded.summary()}
    if faithfulness is not None:
        from rich.console import Console

        from glassworks.coders import load_scope
        from glassworks.models import load_model

        with Console(stderr=True).status("Silencing features ..."):
            name = name or loaded.origin.scope
            coders = load_scope(name) if name else None
            found = loaded.minimal(load_model(model or loaded.model), coders, faithfulness=faithfulness)
        result["minimal"] = found.plain() | {"labels": [loaded.nodes.labels[number] for number in found.nodes]}
        mean = sum(found.random) / len(found.random)
        result["summary"] += (
            f"\n{len(found.nodes)} of {found.features} features keep {found.faithfulness:.0%} of the outcome; "
            f"as many random ones {mean:.0%}."
        )
    if as_json:
        result["groups"] = [{"name": group.name, "nodes": list(group.nodes)} for group in loaded.proposed()]
    print(json.dumps(result, ensure_ascii=False) if as_json else result["summary"])
