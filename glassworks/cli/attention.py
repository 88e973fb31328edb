"""`glassworks attention`: the heads that a graph's edges run through, and why they look where they look."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, OtherModel, OtherScope, opened, scope_of, show, status
from glassworks.cli.trace import write_explained
from glassworks.errors import BadInput, NotFound

if TYPE_CHECKING:
    from glassworks.circuits import Graph

MOST_EDGES, MOST_SCORES = 8, 3


def attention(
    graph: Annotated[str, typer.Argument(help="A graph's folder, as `trace` writes it; or a prompt, which is traced.")],
    model: OtherModel = None,
    scope: OtherScope = None,
    edge: Annotated[
        list[str] | None,
        typer.Option("--edge", "-e", help="'SOURCE > TARGET': nodes by number or label; may be repeated."),
    ] = None,
    head: Annotated[str | None, typer.Option("--head", help="LAYER.HEAD whose score is to be taken apart.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="QUERY,KEY[,OTHER KEY]: positions; the head's strongest if unset.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write graph.json and graph.html here.")] = None,
    as_json: Json = False,
) -> None:
    """Explain attention: through which heads edges run, and what made these heads look there."""
    with status("Opening the model ...") as line:
        import glassworks as gw
        from glassworks.circuits import attention_text, attention_values, edge_values, explain_attention, score_values

        folder = Path(graph)
        if folder.exists():
            traced = opened(folder)
            coders = scope_of(scope or traced.origin.scope or "none", traced.model)
            explained = explain_attention(gw.load_model(model or traced.model), traced, coders)
        elif len(graph.split()) < 2 and ("/" in graph or "\\" in graph):
            raise NotFound(f"There is no folder {graph}; make a graph with `glassworks trace --out`, or give a prompt.")
        else:
            loaded, coders = gw.load_model(model or "smallworld"), scope_of(scope, model or "smallworld")
            explained = explain_attention(loaded, gw.trace(loaded, coders, graph), coders)
            traced = explained.graph
        line.update("Taking heads apart ...")
        result: dict[str, Any] = {"prompt": traced.prompt, "tokens": list(traced.token_texts)}
        if edge or head is not None:
            result["edges"] = [edge_values(explained.edge(*_ends(traced, text))) for text in edge or []]
            result["scores"] = []
            if head is not None:
                layer, number, *places = _numbers(head, at)
                score = explained.score(layer, number, *(places or explained.strongest(layer, number)))
                result["scores"].append(score_values(explained, score))
        else:
            values = attention_values(explained, MOST_EDGES, MOST_SCORES)
            result |= {name: [*values[name].values()] for name in ("edges", "scores")}
        written = {}
        if out is not None:
            written["files"] = write_explained(traced, explained, out)
    show(result | written, as_json, attention_text(traced, result["edges"], result["scores"]), written)


def _ends(graph: "Graph", text: str) -> tuple[int, int]:
    """Source and target of `SOURCE > TARGET`: nodes by number, or the most influential whose label holds a text."""
    names = [name.strip() for name in text.partition(">")[::2]]
    if not all(names):
        raise BadInput(f"The edge {text!r} is not written SOURCE > TARGET; name nodes by number or label.")
    order = (graph.influence + graph.edges.weights).argsort(descending=True, stable=True).tolist()
    sides, ends = {"source": range(graph.nodes.sources), "target": graph.rows.tolist()}, []
    for name, (side, allowed) in zip(names, sides.items(), strict=True):
        named = (n for n in order if n in allowed and name.casefold() in graph.nodes.labels[n].casefold())
        number = int(name) if name.isdecimal() else next(named, None)
        if number is None:
            raise NotFound(f"No node that can be an edge's {side} shows {name!r}.")
        ends.append(number)
    return ends[0], ends[1]


def _numbers(head: str, at: str | None) -> list[int]:
    """Layer and head, and where positions are given those of the query, the key, and perhaps another key."""
    numbers, places = head.split("."), [] if at is None else at.split(",")
    right = len(numbers) == 2 and (at is None or len(places) in (2, 3))
    if not right or not all(text.strip().removeprefix("-").isdecimal() for text in (*numbers, *places)):
        raise BadInput(
            f"Heads are written LAYER.HEAD and positions QUERY,KEY or QUERY,KEY,OTHER, as in 2.3 and -1,4; "
            f"got {head}{'' if at is None else f' and {at}'}."
        )
    return [int(text) for text in (*numbers, *places)]
