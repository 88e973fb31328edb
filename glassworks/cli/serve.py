"""`glassworks serve`: the explorer, on this machine only."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    folder: Annotated[Path, typer.Argument(help="A graph, or a folder with graphs in it.")] = Path("graphs"),
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.", min=0, max=65535)] = 8000,
    open_: Annotated[bool, typer.Option("--open", help="Open the browser too.")] = False,
) -> None:
    """Serve the explorer on this machine."""
    from glassworks.server import serve as run

    run(folder, port=port, open_browser=open_)
