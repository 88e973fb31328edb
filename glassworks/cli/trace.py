"""`glassworks trace`: a prompt in, an attribution graph out, as text, as files and in the browser."""

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, Model, Scope, scope_of, show, status

if TYPE_CHECKING:
    from glassworks.circuits import Attention, Graph

HOME = Path("graphs")


def trace(
    prompt: Annotated[str, typer.Argument(help="The text whose next token is to be explained.")],
    model: Model = "smallworld",
    scope: Scope = None,
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
    began = time.perf_counter()
    with status("Loading the model ..."):
        import glassworks as gw
        from glassworks import artefacts, hub
        from glassworks.circuits import explain_attention, parse

        budget = gw.Budget(rows, seconds, memory)
        folder = out or HOME / slug(prompt)
        hub.resolve(model)  # a wrong name is reported before anything heavy is imported
        artefacts.check_output(folder / "graph", "graph")
        before = gw.load_graph(folder / "graph") if resume else None
        loaded, coders = gw.load_model(model), scope_of(scope, model)
    with status("Tracing ...") as line:

        def progress(done: int, most: int, unexplored: float) -> None:
            left = f"{unexplored:.1%} of the influence unexplored"
            line.update(f"Tracing ... {done:,} of {most:,} rows, {left} (Ctrl-C: enough)")

        targets = [parse(text, loaded) for text in target] if target else None
        graph = gw.trace(loaded, coders, prompt, targets=targets, budget=budget, progress=progress, resume=before)
        predictions = loaded.predict(prompt, k=5)
        heads = explain_attention(loaded, graph) if attention else None
    graph.save(folder / "graph")
    files = {"graph": str(folder / "graph"), **write_explained(graph, heads, folder)}
    facts = {
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
    }
    result: dict[str, Any] = {
        "model": loaded.name,
        "scope": graph.origin.scope,
        "prompt": prompt,
        "tokens": list(graph.token_texts),
        "predictions": [{"token": choice.token, "probability": choice.probability} for choice in predictions],
        "graph": facts,
        "paths": [path.plain() for path in graph.paths(5)],
        "files": files,
    }
    chances = {choice.token.strip() or repr(choice.token): f"{choice.probability:.1%}" for choice in predictions}
    written = {"written": f"{', '.join(files.values())}  ({facts['seconds']:.1f} s)"}
    show(result, as_json, {"next token": chances}, graph, written)
    if open_ and sys.stdin.isatty():
        from glassworks.server import serve

        serve(folder / "graph", port=0, open_browser=True)
    elif open_:  # without a terminal nobody could stop a server
        print(f"No terminal to stop a server from: open {files['page']} in a browser instead.", file=sys.stderr)


def write_explained(graph: "Graph", attention: "Attention | None", folder: Path) -> dict[str, str]:
    """Write the pruned graph as JSON and as a page, with heads and scores where attention is given."""
    from glassworks.circuits import annotate
    from glassworks.notebook import write_html

    small = graph.prune()
    data = small.to_json(folder.name)
    if attention is not None:
        data = annotate(data, attention.part(small))
    page = write_html(graph, folder / "graph.html", attention=attention)
    (folder / "graph.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return {"json": str(folder / "graph.json"), "page": str(page)}


def slug(prompt: str) -> str:
    """A prompt as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "prompt"
