"""`glassworks trace`: a prompt in, an attribution graph out, in words, as files and in the browser."""

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
    from glassworks.circuits import Graph

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
        typer.Option("--target", "-t", help="A token to explain; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the graph in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Trace how the model gets from a prompt to its next token."""
    from rich.console import Console

    began = time.perf_counter()
    with Console(stderr=True).status("Loading the model ..."):
        import glassworks as gw
        from glassworks import artefacts, hub

        folder = out or HOME / _slug(prompt)
        hub.resolve(model)  # what is wrong is told before anything heavy is imported
        artefacts.check_output(folder / "graph", "graph")
        loaded, coders = gw.load_model(model), _scope(scope, model)
    with Console(stderr=True).status("Tracing ..."):
        graph = gw.trace(loaded, coders, prompt, targets=target or None)
        predictions = loaded.predict(prompt, k=5)
    files = _write(graph, folder)
    result = {
        "model": loaded.name,
        "scope": graph.origin.scope,
        "prompt": prompt,
        "tokens": list(graph.token_texts),
        "predictions": [{"token": each.token, "probability": each.probability} for each in predictions],
        "graph": _facts(graph, time.perf_counter() - began),
        "paths": [path.plain() for path in graph.paths(5)],
        "files": files,
    }
    print(json.dumps(result, ensure_ascii=False)) if as_json else _tell(result)
    if open_:
        _open(files)


def _scope(reference: str | None, model: str) -> Any:
    """The scope that is asked for, or the one that the embedded model has, or none."""
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


def _facts(graph: "Graph", seconds: float) -> dict[str, Any]:
    return {
        "nodes": len(graph.nodes),
        "edges": graph.n_edges,
        "features": int(graph.nodes.of("feature").sum()),
        "replacement": graph.replacement,
        "completeness": graph.completeness,
        "conservation": float(graph.conservation.max()),
        "seconds": seconds,
    }


def _write(graph: "Graph", folder: Path) -> dict[str, str]:
    """The whole graph as an artefact; the pruned one as JSON and as a page."""
    from glassworks.notebook import write_html

    files = {"graph": folder / "graph", "json": folder / "graph.json", "page": folder / "graph.html"}
    graph.save(files["graph"])
    files["json"].write_text(json.dumps(graph.prune().to_json(folder.name), ensure_ascii=False), encoding="utf-8")
    write_html(graph, files["page"])
    return {name: str(path) for name, path in files.items()}


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "prompt"


def _tell(result: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    graph = result["graph"]
    console.print("[bold]Next token[/bold]")
    for each in result["predictions"]:
        console.print(f"  {each['probability']:6.1%}  [bold]{each['token'].strip() or each['token']!r}[/bold]")
    console.print(
        f"[bold]Graph[/bold]  {graph['nodes']:,} nodes ({graph['features']:,} features), {graph['edges']:,} edges; "
        f"replacement {graph['replacement']:.2f}, completeness {graph['completeness']:.2f}, "
        f"rows add up to within {graph['conservation']:.0e}"
    )
    console.print("[bold]Strongest paths[/bold]  (part of the likeliest token's input)")
    for path in result["paths"]:
        console.print(f"  {path['weight']:6.1%}  {path['text']}", markup=False)
    console.print(f"[bold]Written[/bold]  {', '.join(result['files'].values())}  ({graph['seconds']:.1f} s)")


def _open(files: dict[str, str]) -> None:
    """Serve the graph until Ctrl-C; without a terminal nobody could stop it, so the page is named instead."""
    if sys.stdin.isatty():
        from glassworks.server import serve

        serve(Path(files["graph"]), port=0, open_browser=True)
    else:
        print(f"No terminal to stop a server from: open {files['page']} in a browser instead.", file=sys.stderr)
