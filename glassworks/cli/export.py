"""`glassworks export`: a graph from one format into another."""

from pathlib import Path
from typing import Annotated

import typer

from glassworks.cli.options import opened


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
