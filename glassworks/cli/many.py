"""`glassworks batch`, `diff` and `weights`: beyond one prompt."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, Model, lines_of, opened, show
from glassworks.cli.trace import HOME, scope_of, slug
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.circuits import Aggregate, Difference, Prediction, Stability

Scope = Annotated[str | None, typer.Option("--scope", "-s", help="The transcoders; the model's own if unset.")]
CHUNK = 8
"""So many prompts are traced at once."""
MOST = 12
"""Rows of a printed table."""


def batch(
    file: Annotated[Path, typer.Argument(help="A text file: a prompt a line; empty lines part sets of paraphrases.")],
    model: Model = "smallworld",
    scope: Scope = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the graphs and the aggregate.")] = None,
    unseen: Annotated[
        Path | None, typer.Option("--unseen", help="Prompts to predict edits on: a prompt a line.")
    ] = None,
    size: Annotated[int, typer.Option("--size", help="How many features the predicting circuit has.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Trace many prompts: what recurs, whether paraphrases agree, and what the circuit predicts on other prompts."""
    from rich.console import Console

    sets = _sets(lines_of(file))
    others = [each for each in lines_of(unseen) if each] if unseen else []
    folder = out or HOME / slug(file.stem)
    with Console(stderr=True).status("Loading the model ...") as status:
        import glassworks as gw
        from glassworks import artefacts
        from glassworks.circuits import aggregate, predict, stability, traces

        artefacts.check_output(folder / "aggregate", "aggregate")
        loaded, coders = gw.load_model(model), scope_of(scope, model)
        prompts = [prompt for each in sets for prompt in each]
        graphs = []
        for start in range(0, len(prompts), CHUNK):
            status.update(f"Tracing ... {start} of {len(prompts)} prompts")
            graphs += traces(loaded, coders, prompts[start : start + CHUNK])
        status.update("Comparing ...")
        found = aggregate(graphs)
        places = iter(graphs)
        stable = stability([[next(places) for _ in each] for each in sets], seed) if _several(sets) else None
        predicted = predict(loaded, coders, graphs, others, size, seed) if others else None
    found.save(folder / "aggregate")
    for number, graph in enumerate(graphs, 1):
        graph.save(folder / f"{number:03}-{slug(graph.prompt)}")
    parts = {"aggregate": found, "stability": stable, "prediction": predicted}
    if as_json:
        told = {name: part.plain() for name, part in parts.items() if part is not None}
        print(json.dumps(told | {"folder": str(folder)}, ensure_ascii=False))
    else:
        show(_recurring(found) | _stable(stable) | _predicted(predicted) | {"written": str(folder)}, False)


def diff(
    first: Annotated[Path, typer.Argument(help="A graph: its folder, or a file of another program.")],
    second: Annotated[Path, typer.Argument(help="Another graph.")],
    by: Annotated[
        str, typer.Option("--by", help="Match features by 'feature' or, in other scopes, by 'label'.")
    ] = "feature",
    as_json: Json = False,
) -> None:
    """Tell how two graphs differ: two prompts, a base model and its instruct version, or two sizes."""
    from glassworks.circuits import compare

    found = compare(opened(first), opened(second), by)
    show(found.plain() if as_json else _differs(found), as_json)


def weights(
    feature: Annotated[str, typer.Argument(help="The feature that is fed, like mlp_in.2/17.")],
    text: Annotated[Path, typer.Option("--text", help="Text that it is active on: a prompt a line.")],
    model: Model = "smallworld",
    scope: Scope = None,
    most: Annotated[int, typer.Option("--most", help="How many sources to tell.")] = 20,
    as_json: Json = False,
) -> None:
    """Tell which features feed a feature on every prompt: virtual weights, corrected for co-activation."""
    prompts = [each for each in lines_of(text) if each]
    from glassworks import load_model
    from glassworks.circuits import inputs_of

    coders = scope_of(scope, model)
    if coders is None:
        raise BadInput("Global weights are between features of a scope; give one.")
    found = inputs_of(load_model(model), coders, feature, prompts, most).plain()
    show(found, as_json)


def _sets(lines: list[str]) -> list[list[str]]:
    """Prompts, in sets that empty lines part; BadInput where there are none."""
    sets: list[list[str]] = [[]]
    for line in lines:
        sets = [*sets, []] if not line.strip() else [*sets[:-1], [*sets[-1], line]]
    found = [each for each in sets if each]
    if not found:
        raise BadInput("The file has no prompts; write one a line.")
    return found


def _several(sets: list[list[str]]) -> bool:
    return len(sets) > 1 and min(map(len, sets)) > 1


def _recurring(found: "Aggregate") -> dict[str, Any]:
    features = [
        {
            "feature": each.name,
            "place": each.place,
            "prompts": f"{each.prompts} of {len(found.prompts)}",
            "influence": each.influence,
            "activation": each.activation,
        }
        for each in found.features[:MOST]
    ]
    edges = [
        {
            "edge": f"{found.nodes[each.source].name} -> {found.nodes[each.target].name}",
            "prompts": f"{each.prompts} of {len(found.prompts)}",
            "share": each.share,
            "same sign": each.agreement,
        }
        for each in found.edges
        if found.nodes[each.source].kind == found.nodes[each.target].kind == "feature"
    ][:MOST]
    scores = {"replacement": _interval(found.replacement), "completeness": _interval(found.completeness)}
    return {"prompts": len(found.prompts)} | scores | {"conservation": found.conservation} | _tables(features, edges)


def _tables(features: list[dict[str, Any]], edges: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: rows for name, rows in {"recurring features": features, "recurring edges": edges}.items() if rows}


def _stable(found: "Stability | None") -> dict[str, Any]:
    if found is None:
        return {}
    text = f"paraphrases {_interval(found.within)}, other prompts {_interval(found.between)}, p {found.p:.3f}"
    return {"similarity": text}


def _predicted(found: "Prediction | None") -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "unseen prompts": f"edits predicted with r {found.predicted} ({found.predicted.pairs} edits)",
        "random circuit": f"r {found.control}; its edits by the circuit's numbers: r {found.swapped}",
        "better by": _interval(found.better),
        "one feature": f"moves the outcome by {_interval(found.moved)}",
        "a random one": f"by {_interval(found.moved_random)}",
    }


def _differs(found: "Difference") -> dict[str, Any]:
    def rows(changes: Any) -> list[dict[str, Any]]:
        return [
            {"what": each.name, "kind": each.kind, "first": each.first, "second": each.second}
            for each in changes[:MOST]
        ]

    facts = {"similarity": found.similarity, "tokens": found.tokens, "edges": found.edges}
    return facts | {"nodes that differ": rows(found.nodes), "edges that differ": rows(found.links)}


def _interval(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"
