"""`glassworks batch`, `diff` and `weights`: beyond one prompt."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, Model, lines_of, opened, show
from glassworks.cli.trace import HOME, scope_of, slug
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.circuits import Aggregate

Scope = Annotated[str | None, typer.Option("--scope", "-s", help="The transcoders; the model's own if unset.")]
CHUNK = 8
"""So many prompts are traced at once."""
MOST = 12
"""Rows of a printed table."""


def batch(
    file: Annotated[Path, typer.Argument(help="A text file: one prompt per line.")],
    model: Model = "smallworld",
    scope: Scope = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the graphs and the aggregate.")] = None,
    unseen: Annotated[Path | None, typer.Option("--unseen", help="Prompts to predict edits on: one per line.")] = None,
    size: Annotated[int, typer.Option("--size", help="How many features the predicting circuit has.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Trace many prompts: what recurs, and what the circuit predicts on other prompts."""
    from rich.console import Console

    prompts = [line for line in lines_of(file) if line.strip()]
    if not prompts:
        raise BadInput("The file has no prompts; write one per line.")
    others = [line for line in lines_of(unseen) if line] if unseen else []
    folder = out or HOME / slug(file.stem)
    with Console(stderr=True).status("Loading the model ...") as status:
        import glassworks as gw
        from glassworks import artefacts
        from glassworks.circuits import aggregate, predict, traces

        artefacts.check_output(folder / "aggregate", "aggregate")
        loaded, coders = gw.load_model(model), scope_of(scope, model)
        graphs = []
        for start in range(0, len(prompts), CHUNK):
            status.update(f"Tracing ... {start} of {len(prompts)} prompts")
            graphs += traces(loaded, coders, prompts[start : start + CHUNK])
        status.update("Comparing ...")
        found = aggregate(graphs)
        predicted = predict(loaded, coders, graphs, others, size, seed) if others else None
    found.save(folder / "aggregate")
    for number, graph in enumerate(graphs, 1):
        graph.save(folder / f"{number:03}-{slug(graph.prompt)}")
    if as_json:
        result: dict[str, Any] = {"aggregate": found.plain()}
        result |= {} if predicted is None else {"prediction": predicted.plain()}
        show(result | {"folder": str(folder)}, as_json)
        return
    facts = _recurring(found)
    if predicted is not None:
        facts |= {
            "unseen prompts": f"edits predicted with r {predicted.predicted} ({predicted.predicted.pairs} edits)",
            "random circuit": f"r {predicted.control}; its edits by the circuit's numbers: r {predicted.swapped}",
            "better by": _interval(predicted.better),
            "one feature": f"moves the outcome by {_interval(predicted.moved)}",
            "a random one": f"by {_interval(predicted.moved_random)}",
        }
    show(facts | {"written": str(folder)}, as_json)


def diff(
    first: Annotated[Path, typer.Argument(help="A graph: its folder, or a file of another program.")],
    second: Annotated[Path, typer.Argument(help="Another graph.")],
    by: Annotated[
        str, typer.Option("--by", help="Match features by 'feature' or, in other scopes, by 'label'.")
    ] = "feature",
    as_json: Json = False,
) -> None:
    """Show how two graphs differ: two prompts, a base model and its instruct version, or two sizes."""
    from glassworks.circuits import compare

    found = compare(opened(first), opened(second), by)
    if as_json:
        show(found.plain(), as_json)
        return
    facts: dict[str, Any] = {"similarity": found.similarity, "tokens": found.tokens, "edges": found.edges}
    for name, changes in {"nodes that differ": found.nodes, "edges that differ": found.links}.items():
        facts[name] = [
            {"what": change.name, "kind": change.kind, "first": change.first, "second": change.second}
            for change in changes[:MOST]
        ]
    show(facts, as_json)


def weights(
    feature: Annotated[str, typer.Argument(help="The feature that is fed, like mlp_in.2/17.")],
    text: Annotated[Path, typer.Option("--text", help="Text that it is active on: one prompt per line.")],
    model: Model = "smallworld",
    scope: Scope = None,
    most: Annotated[int, typer.Option("--most", help="How many sources to print.")] = 20,
    as_json: Json = False,
) -> None:
    """Show which features feed a feature on every prompt: virtual weights, corrected for co-activation."""
    prompts = [line for line in lines_of(text) if line]
    from glassworks import load_model
    from glassworks.circuits import inputs_of

    coders = scope_of(scope, model)
    if coders is None:
        raise BadInput("Global weights are between features of a scope; give one.")
    found = inputs_of(load_model(model), coders, feature, prompts, most).plain()
    show(found, as_json)


def _recurring(found: "Aggregate") -> dict[str, Any]:
    features = [
        {
            "feature": node.name,
            "place": node.place,
            "prompts": f"{node.prompts} of {len(found.prompts)}",
            "influence": node.influence,
            "activation": node.activation,
        }
        for node in found.features[:MOST]
    ]
    edges = [
        {
            "edge": f"{found.nodes[edge.source].name} -> {found.nodes[edge.target].name}",
            "prompts": f"{edge.prompts} of {len(found.prompts)}",
            "share": edge.share,
            "same sign": edge.agreement,
        }
        for edge in found.edges
        if found.nodes[edge.source].kind == found.nodes[edge.target].kind == "feature"
    ][:MOST]
    scores = {"replacement": _interval(found.replacement), "completeness": _interval(found.completeness)}
    tables = {"recurring features": features, "recurring edges": edges}
    facts = {"prompts": len(found.prompts)} | scores | {"conservation": found.conservation}
    return facts | {name: rows for name, rows in tables.items() if rows}


def _interval(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"
