"""`glassworks check`, `summary`, `export`, `diff`, `batch` and `weights`: saved graphs, and more than one prompt."""

from pathlib import Path
from typing import Annotated, Any

import typer

from glassworks.cli.options import (
    Json,
    Model,
    OtherModel,
    OtherScope,
    Saved,
    Scope,
    Seed,
    lines_of,
    opened,
    scope_of,
    show,
    status,
)
from glassworks.cli.trace import HOME, slug
from glassworks.errors import BadInput

CHUNK = 8
"""So many prompts are traced at once."""


def check(
    graph: Saved,
    model: OtherModel = None,
    scope: OtherScope = None,
    interventions: Annotated[int, typer.Option("--interventions", "-n", help="How many features are silenced.")] = 32,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Check a graph against its model: exit code 1 where a law does not hold."""
    from glassworks.coders import load_scope
    from glassworks.models import load_model

    loaded = opened(graph, load_scope(scope) if scope else None)
    with status("Changing the model ..."):
        result = loaded.check(load_model(model or loaded.model), interventions=interventions, seed=seed)
    show(result, as_json)
    raise typer.Exit(0 if result.passed else 1)


def summary(
    graph: Saved,
    faithfulness: Annotated[
        float | None, typer.Option("--faithfulness", help="Find the features that keep so much of the outcome, 0 to 1.")
    ] = None,
    model: OtherModel = None,
    scope: OtherScope = None,
    as_json: Json = False,
) -> None:
    """Describe a graph in plain sentences."""
    loaded = opened(graph)
    result: dict[str, Any] = {"summary": loaded.summary()}
    if faithfulness is not None:
        from glassworks.coders import load_scope
        from glassworks.models import load_model

        with status("Silencing features ..."):
            name = scope or loaded.origin.scope
            coders = load_scope(name) if name else None
            minimal = loaded.minimal(load_model(model or loaded.model), coders, faithfulness=faithfulness)
        result["minimal"] = minimal.plain() | {"labels": [loaded.nodes.labels[number] for number in minimal.nodes]}
        result["summary"] += f"\n{minimal}"
    result["groups"] = [{"name": group.name, "nodes": list(group.nodes)} for group in loaded.proposed()]
    show(result, as_json, result["summary"])


def export(
    graph: Annotated[Path, typer.Argument(help="A graph: its folder, or a .json, .pt or .npz file.")],
    out: Annotated[Path, typer.Argument(help="A .json, .npz or .html file; or a folder, for an artefact.")],
    whole: Annotated[bool, typer.Option("--whole", help="Write .json and .html unpruned, which may be huge.")] = False,
) -> None:
    """Write a graph in another format: Neuronpedia's JSON, circuit-tracer's arrays, a page, or our own artefact."""
    from glassworks.notebook import write_html

    loaded = opened(graph)
    small = loaded if whole or out.suffix == ".npz" else loaded.prune()
    if out.suffix == ".html":
        write_html(small, out)
    elif out.suffix:
        small.export(out)
    else:
        loaded.save(out)
    print(out)


def diff(
    first: Saved,
    second: Annotated[Path, typer.Argument(help="Another graph.")],
    by: Annotated[
        str, typer.Option("--by", help="Match features by 'feature' or, in other scopes, by 'label'.")
    ] = "feature",
    as_json: Json = False,
) -> None:
    """Show how two graphs differ: two prompts, a base model and its instruct version, or two sizes."""
    from glassworks.circuits import compare

    show(compare(opened(first), opened(second), by), as_json)


def batch(
    file: Annotated[Path, typer.Argument(help="A text file: one prompt per line.")],
    model: Model = "smallworld",
    scope: Scope = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the graphs and the aggregate.")] = None,
    unseen: Annotated[Path | None, typer.Option("--unseen", help="Prompts to predict edits on: one per line.")] = None,
    size: Annotated[int, typer.Option("--size", help="How many features the predicting circuit has.")] = 8,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Trace many prompts: what recurs, and what the circuit predicts on other prompts."""
    prompts, others = lines_of(file), lines_of(unseen) if unseen else []
    if not prompts:
        raise BadInput("The file has no prompts; write one per line.")
    folder = out or HOME / slug(file.stem)
    with status("Loading the model ...") as line:
        import glassworks as gw
        from glassworks import artefacts
        from glassworks.circuits import aggregate, predict, traces

        artefacts.check_output(folder / "aggregate", "aggregate")
        loaded, coders = gw.load_model(model), scope_of(scope, model)
        graphs = []
        for start in range(0, len(prompts), CHUNK):
            line.update(f"Tracing ... {start} of {len(prompts)} prompts")
            graphs += traces(loaded, coders, prompts[start : start + CHUNK])
        line.update("Comparing ...")
        recurring = aggregate(graphs)
        predicted = {"prediction": predict(loaded, coders, graphs, others, size, seed)} if others else {}
    recurring.save(folder / "aggregate")
    for number, graph in enumerate(graphs, 1):
        graph.save(folder / f"{number:03}-{slug(graph.prompt)}")
    result = {name: value.plain() for name, value in ({"aggregate": recurring} | predicted).items()}
    show(result | {"folder": str(folder)}, as_json, recurring, *predicted.values(), {"written": str(folder)})


def weights(
    feature: Annotated[str, typer.Argument(help="The feature that is fed, like mlp_in.2/17.")],
    text: Annotated[Path, typer.Option("--text", help="Text that it is active on: one prompt per line.")],
    model: Model = "smallworld",
    scope: Scope = None,
    most: Annotated[int, typer.Option("--most", help="How many sources to print.")] = 20,
    as_json: Json = False,
) -> None:
    """Show which features feed a feature on every prompt: virtual weights, corrected for co-activation."""
    prompts, coders = lines_of(text), scope_of(scope, model)
    from glassworks.circuits import inputs_of
    from glassworks.models import load_model

    if coders is None:
        raise BadInput("Global weights are between features of a scope; give one.")
    show(inputs_of(load_model(model), coders, feature, prompts, most).plain(), as_json)
