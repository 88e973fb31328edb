"""`glassworks trace`: a prompt in, an attribution graph out, as text, as files and in the browser."""

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, Model
from glassworks.errors import NotFound

if TYPE_CHECKING:
    from glassworks.circuits import Attention, Graph

HOME = Path("graphs")


def trace(
    prompt: Annotated[str, typer.Argument(help="The text whose next token is to be explained.")],
    model: Model = "smallworld",
    scope: Annotated[
        str | None,
        typer.Option("--scope", "-s", help="Transcoders to explain with, or 'none'; the model's own if unset."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="What to explain: a token, 'A - B', 'likely@3', 'next:3', a feature ..."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Explain the heads of the strongest edges too.")
    ] = False,
    rows: Annotated[int | None, typer.Option("--rows", help="Compute so many features' rows, the top ones.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Compute rows for so long at most.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Take so much memory at most, like 4GB.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished graph in --out.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Show the graph in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Trace how the model gets from a prompt to its next token."""
    from rich.console import Console

    began = time.perf_counter()
    with Console(stderr=True).status("Loading the model ..."):
        import glassworks as gw
        from glassworks import artefacts, hub
        from glassworks.circuits import explain_attention, parse

        budget = gw.Budget(rows, seconds, memory)
        folder = out or HOME / slug(prompt)
        hub.resolve(model)  # a wrong name is reported before anything heavy is imported
        artefacts.check_output(folder / "graph", "graph")
        before = gw.load_graph(folder / "graph") if resume else None
        loaded, coders = gw.load_model(model), scope_of(scope, model)
    with Console(stderr=True).status("Tracing ...") as status:

        def progress(done: int, most: int, unexplored: float) -> None:
            left = f"{unexplored:.1%} of the influence unexplored"
            status.update(f"Tracing ... {done:,} of {most:,} rows, {left} (Ctrl-C: enough)")

        targets = [parse(text, loaded) for text in target] if target else None
        graph = gw.trace(loaded, coders, prompt, targets=targets, budget=budget, progress=progress, resume=before)
        predictions = loaded.predict(prompt, k=5)
        heads = explain_attention(loaded, graph) if attention else None
    files = {"graph": folder / "graph", "json": folder / "graph.json", "page": folder / "graph.html"}
    graph.save(files["graph"])
    write_explained(graph, heads, files)
    result = {
        "model": loaded.name,
        "scope": graph.origin.scope,
        "prompt": prompt,
        "tokens": list(graph.token_texts),
        "predictions": [{"token": next_.token, "probability": next_.probability} for next_ in predictions],
        "graph": {
            "nodes": len(graph.nodes),
            "edges": graph.n_edges,
            "features": int(graph.nodes.of("feature").sum()),
            "rows": len(graph.rows),
            "unexplored": graph.unexplored,
            "interrupted": graph.origin.facts["interrupted"],
            "replacement": graph.replacement,
            "completeness": graph.completeness,
            "conservation": graph.residual,
            "approximate": graph.origin.facts.get("approximate", []),
            "seconds": time.perf_counter() - began,
        },
        "paths": [path.plain() for path in graph.paths(5)],
        "files": {name: str(path) for name, path in files.items()},
    }
    print(json.dumps(result, ensure_ascii=False)) if as_json else _print(result)
    if open_ and sys.stdin.isatty():
        from glassworks.server import serve

        serve(files["graph"], port=0, open_browser=True)
    elif open_:  # without a terminal nobody could stop a server
        print(f"No terminal to stop a server from: open {files['page']} in a browser instead.", file=sys.stderr)


def scope_of(reference: str | None, model: str) -> Any:
    """The named scope, or the one that the embedded model has, or none."""
    import glassworks as gw
    from glassworks import hub

    if reference == "none":
        return None
    if reference is None and model not in (*hub.ALIASES, *hub.embedded("scope")):
        raise NotFound(
            f"The model {model!r} brings no transcoders of its own; give --scope with a folder or owner/name, "
            "or --scope none to explain with attention and error nodes only."
        )
    return gw.load_scope(reference or model)


def write_explained(graph: "Graph", attention: "Attention | None", files: dict[str, Path]) -> None:
    """Write the pruned graph as JSON and as a page, with heads and scores where attention is given."""
    from glassworks.circuits import annotate
    from glassworks.notebook import write_html

    small = graph.prune()
    data = small.to_json(files["json"].parent.name)
    if attention is not None:
        data = annotate(data, attention.part(small))
    write_html(graph, files["page"], attention=attention)
    files["json"].write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def slug(prompt: str) -> str:
    """A prompt as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "prompt"


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    graph = result["graph"]
    console.print("[bold]Next token[/bold]")
    for next_ in result["predictions"]:
        console.print(f"  {next_['probability']:6.1%}  [bold]{next_['token'].strip() or next_['token']!r}[/bold]")
    exact = "approximate" if graph["conservation"] is None else f"rows add up to within {graph['conservation']:.0e}"
    console.print(
        f"[bold]Graph[/bold]  {graph['nodes']:,} nodes ({graph['features']:,} features), {graph['edges']:,} edges; "
        f"replacement {graph['replacement']:.2f}, completeness {graph['completeness']:.2f}, {exact}"
    )
    if graph["approximate"]:
        console.print(
            f"[bold]Approximate[/bold]  by the Jacobian of the model's blocks: {', '.join(graph['approximate'])}"
        )
    if graph["unexplored"] > 1e-6:
        left = "; it was stopped, go on with --resume" if graph["interrupted"] else ""
        console.print(
            f"[bold]Truncated[/bold]  {graph['rows']:,} rows computed; "
            f"{graph['unexplored']:.1%} of the influence rests on features without one{left}"
        )
    console.print("[bold]Strongest paths[/bold]  (part of the likeliest token's input)")
    for path in result["paths"]:
        console.print(f"  {path['weight']:6.1%}  {path['text']}", markup=False)
    console.print(f"[bold]Written[/bold]  {', '.join(result['files'].values())}  ({graph['seconds']:.1f} s)")
