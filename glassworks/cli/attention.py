"""`glassworks attention`: the heads that a graph's edges run through, and why they look where they look."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json
from glassworks.cli.trace import scope_of
from glassworks.errors import BadInput, NotFound

if TYPE_CHECKING:
    from glassworks.circuits import Attention, Graph

SHOWN_EDGES, SHOWN_SCORES, SHOWN_HEADS, SHOWN_PAIRS = 8, 3, 4, 5


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
        found = _open(graph, model, scope)
    with Console(stderr=True).status("Taking heads apart ..."):
        result = _explain(found, edge or [], head, at)
        if out is not None:
            result["files"] = _write(found, out)
    print(json.dumps(result, ensure_ascii=False)) if as_json else _tell(found.graph, result)


def _open(reference: str, model: str | None, scope: str | None) -> "Attention":
    import glassworks as gw
    from glassworks.circuits import explain_attention

    folder = Path(reference)
    if folder.exists():
        graph = gw.load_graph(folder / "graph" if (folder / "graph").is_dir() else folder)
        name = scope or graph.origin.scope or "none"
        return explain_attention(gw.load_model(model or graph.model), graph, scope_of(name, graph.model))
    if len(reference.split()) < 2 and ("/" in reference or "\\" in reference):
        raise NotFound(f"There is no folder {reference}; make a graph with `glassworks trace --out`, or give a prompt.")
    loaded, coders = gw.load_model(model or "smallworld"), scope_of(scope, model or "smallworld")
    return explain_attention(loaded, gw.trace(loaded, coders, reference), coders)


def _explain(attention: "Attention", edges: list[str], head: str | None, at: str | None) -> dict[str, Any]:
    from glassworks.circuits import attention_values, edge_values, score_values

    facts = {"prompt": attention.graph.prompt, "tokens": list(attention.graph.token_texts)}
    if not edges and head is None:
        found = attention_values(attention, SHOWN_EDGES, SHOWN_SCORES)
        return {**facts, "edges": [*found["edges"].values()], "scores": [*found["scores"].values()]}
    pairs = [tuple(_node(attention.graph, name, side) for side, name in enumerate(_ends(each))) for each in edges]
    told = [edge_values(attention.edge(source, target)) for source, target in pairs]
    scores = [] if head is None else [score_values(attention, attention.score(*_where(attention, head, at)))]
    return {**facts, "edges": told, "scores": scores}


def _ends(text: str) -> tuple[str, str]:
    source, arrow, target = text.partition(">")
    if not arrow or not source.strip() or not target.strip():
        raise BadInput(f"The edge {text!r} is not written SOURCE > TARGET; name nodes by number or label.")
    return source.strip(), target.strip()


def _node(graph: "Graph", name: str, side: int) -> int:
    """A node by number, or the most influential that shows a text; of an edge's source or target."""
    if name.isdecimal():
        return int(name)
    order = (graph.influence + graph.edges.weights).argsort(descending=True, stable=True).tolist()
    fits = set(graph.rows.tolist()) if side else set(range(graph.nodes.sources))
    found = [each for each in order if each in fits and name.casefold() in graph.nodes.labels[each].casefold()]
    if not found:
        raise NotFound(f"No node that can be an edge's {('source', 'target')[side]} shows {name!r}.")
    return found[0]


def _where(attention: "Attention", head: str, at: str | None) -> tuple[int, ...]:
    """Layer, head, query and key, perhaps the key to compare with."""
    numbers, places = head.split("."), [] if at is None else at.split(",")
    right = len(numbers) == 2 and (at is None or len(places) in (2, 3))
    if not right or not all(each.strip().removeprefix("-").isdecimal() for each in (*numbers, *places)):
        raise BadInput(
            f"Heads are written LAYER.HEAD and positions QUERY,KEY or QUERY,KEY,OTHER, as in 2.3 and -1,4; "
            f"got {head}{'' if at is None else f' and {at}'}."
        )
    layer, number = map(int, numbers)
    return (layer, number, *(map(int, places) if places else attention.strongest(layer, number)))


def _write(attention: "Attention", folder: Path) -> dict[str, str]:
    """The pruned graph's JSON with what Neuronpedia calls QK tracing, and the page with heads and scores."""
    from glassworks.circuits import annotate
    from glassworks.notebook import write_html

    graph, files = attention.graph, {"json": folder / "graph.json", "page": folder / "graph.html"}
    small = attention.part(graph.prune())
    write_html(graph, files["page"], attention=attention)
    data = annotate(small.graph.to_json(folder.name), small)
    files["json"].write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return {name: str(path) for name, path in files.items()}


def _tell(graph: "Graph", result: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    texts = [text.strip() or repr(text) for text in graph.token_texts]
    for edge in result["edges"]:
        source, target = (_name(graph, texts, edge[end]) for end in ("source", "target"))
        console.print(f"[bold]{edge['weight']:+.3g}[/bold]  ", end="")
        console.print(f"{source} -> {target}", markup=False)
        if not edge["heads"]:
            console.print("     past all heads: it stays at its token")
        for each in edge["heads"][:SHOWN_HEADS]:
            way = f"{texts[each['key']]} -> {texts[each['query']]}"
            console.print(f"     {each['share']:7.1%}  head {each['layer']}.{each['head']}  {way}", markup=False)
    for score in result["scores"]:
        console.print(f"[bold]Head {score['layer']}.{score['head']}[/bold]  ", end="")
        way = f"looks from {texts[score['query']]!r} to {texts[score['key']]!r}"
        console.print(f"{way}: attention {score['weight']:.1%}, score {score['score']:+.3g}, made of", markup=False)
        for pair in score["pairs"][:SHOWN_PAIRS]:
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
