"""`glassworks smallworld`: build the embedded default again, or measure it."""

from pathlib import Path
from typing import Annotated

import typer

from glassworks.cli.options import Json, show


def build(
    name: Annotated[str, typer.Argument(help="smallworld-s, -m or -l, or its instruct model, -it.")] = "smallworld-m",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that gets NAME and NAME-scope.")] = Path("models"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder for checkpoints; in the cache if unset.")] = None,
    scopes: Annotated[bool, typer.Option("--scopes", help="Only a scope, of every kind of coder.")] = False,
) -> None:
    """Train an embedded model from nothing and its scope as it is shipped (about an hour on one core)."""
    from glassworks import studies

    for written in studies.build(name, out, resume, checkpoints, scopes=scopes):
        print(f"wrote {written}")


def check(
    name: Annotated[str, typer.Argument(help="An embedded name, or a folder that `build` wrote.")] = "smallworld",
    as_json: Json = False,
) -> None:
    """Measure an embedded model: accuracy on every task, and whether its circuit is real."""
    from glassworks import studies

    show(studies.check(name), as_json)
