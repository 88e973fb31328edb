"""`glassworks attention`: the heads that a graph's edges run through, and why they look where they look."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, opened
from glassworks.cli.trace import scope_of, write_explained
from glassworks.errors import BadInput, NotFound

if TYPE_CHECKING:
    from glassworks.circuits import Attention, Graph

MOST_EDGES, MOST_SCORES, MOST_HEADS, MOST_PAIRS = 8, 3, 4, 5


def attention(
    graph: Annotated[str, typer.Argument(help="A graph's folder, as `trace` writes it; or a prompt, which is traced.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model; the graph's own, or smallworld, if unset.")
    ] = None,
    scope: Annotated[str | None, typer.Option("--scope", "-s", help="The scope; the graph's own if unset.")] = None,
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
    from rich.console import Console

    with Console(stderr=True).status("Opening the model ..."):
        import glassworks as gw
        from glassworks.circuits import attention_values, edge_values, explain_attention, score_values

        folder = Path(graph)
        if folder.exists():
            traced = opened(folder)
            name = scope or traced.origin.scope or "none"
            found = explain_attention(gw.load_model(model or traced.model), traced, scope_of(name, traced.model))
        elif len(graph.split()) < 2 and ("/" in graph or "\\" in graph):
            raise NotFound(f"There is no folder {graph}; make a graph with `glassworks trace --out`, or give a prompt.")
        else:
            loaded, coders = gw.load_model(model or "smallworld"), scope_of(scope, model or "smallworld")
            found = explain_attention(loaded, gw.trace(loaded, coders, graph), coders)
            traced = found.graph
    with Console(stderr=True).status("Taking heads apart ..."):
        result: dict[str, Any] = {"prompt": traced.prompt, "tokens": list(traced.token_texts)}
        if edge or head is not None:
            pairs = [_ends(traced, text) for text in edge or []]
            result["edges"] = [edge_values(found.edge(source, target)) for source, target in pairs]
            scores = [] if head is None else [found.score(*_where(found, head, at))]
            result["scores"] = [score_values(found, score) for score in scores]
        else:
            values = attention_values(found, MOST_EDGES, MOST_SCORES)
            result |= {name: [*values[name].values()] for name in ("edges", "scores")}
        if out is not None:
            files = {"json": out / "graph.json", "page": out / "graph.html"}
            write_explained(traced, found, files)
            result["files"] = {name: str(path) for name, path in files.items()}
    print(json.dumps(result, ensure_ascii=False)) if as_json else _print(traced, result)


def _ends(graph: "Graph", text: str) -> tuple[int, int]:
    """Source and target of `SOURCE > TARGET`: nodes by number, or the most influential whose label holds a text."""
    names = [name.strip() for name in text.partition(">")[::2]]
    if not all(names):
        raise BadInput(f"The edge {text!r} is not written SOURCE > TARGET; name nodes by number or label.")
    order = (graph.influence + graph.edges.weights).argsort(descending=True, stable=True).tolist()
    ends = []
    for name, side, fits in zip(
        names, ("source", "target"), (range(graph.nodes.sources), graph.rows.tolist()), strict=True
    ):
        if name.isdecimal():
            ends.append(int(name))
            continue
        label, allowed = name.casefold(), set(fits)
        nodes = [each for each in order if each in allowed and label in graph.nodes.labels[each].casefold()]
        if not nodes:
            raise NotFound(f"No node that can be an edge's {side} shows {name!r}.")
        ends.append(nodes[0])
    return ends[0], ends[1]


def _where(attention: "Attention", head: str, at: str | None) -> tuple[int, ...]:
    """Layer, head, query and key, perhaps the key to compare with."""
    numbers, places = head.split("."), [] if at is None else at.split(",")
    right = len(numbers) == 2 and (at is None or len(places) in (2, 3))
    if not right or not all(text.strip().removeprefix("-").isdecimal() for text in (*numbers, *places)):
        raise BadInput(
            f"Heads are written LAYER.HEAD and positions QUERY,KEY or QUERY,KEY,OTHER, as in 2.3 and -1,4; "
            f"got {head}{'' if at is None else f' and {at}'}."
        )
    layer, number = map(int, numbers)
    return (layer, number, *(map(int, places) if places else attention.strongest(layer, number)))


def _print(graph: "Graph", result: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    texts = [text.strip() or repr(text) for text in graph.token_texts]
    for edge in result["edges"]:
        source, target = (_name(graph, texts, edge[end]) for end in ("source", "target"))
        console.print(f"[bold]{edge['weight']:+.3g}[/bold]  ", end="")
        console.print(f"{source} -> {target}", markup=False)
        if not edge["heads"]:
            console.print("     past all heads: it stays at its token")
        for head in edge["heads"][:MOST_HEADS]:
            way = f"{texts[head['key']]} -> {texts[head['query']]}"
            console.print(f"     {head['share']:7.1%}  head {head['layer']}.{head['head']}  {way}", markup=False)
    for score in result["scores"]:
        console.print(f"[bold]Head {score['layer']}.{score['head']}[/bold]  ", end="")
        way = f"looks from {texts[score['query']]!r} to {texts[score['key']]!r}"
        console.print(f"{way}: attention {score['weight']:.1%}, score {score['score']:+.3g}, made of", markup=False)
        for pair in score["pairs"][:MOST_PAIRS]:
            query, key = (_source(texts, pair[side]) for side in ("query", "key"))
            console.print(f"     {pair['value']:+7.3f}  {query}  x  {key}", markup=False)
    for name, path in result.get("files", {}).items():
        console.print(f"[bold]Written[/bold]  {name} {path}")


def _name(graph: "Graph", texts: list[str], number: int) -> str:
    node = graph.nodes[number]
    return _source(texts, {name: getattr(node, name) for name in ("kind", "layer", "position", "index", "label")})


def _source(texts: list[str], source: dict[str, Any]) -> str:
    if source["kind"] in ("bias", "embedding", "logit"):
        return source["label"].strip() or repr(source["label"])
    name = source["label"] or (f"feature {source['index']}" if source["kind"] == "feature" else "error")
    return f"{name} (layer {source['layer']} at {texts[source['position']]})"
