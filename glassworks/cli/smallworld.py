"""`glassworks smallworld`: measure the embedded default."""

from typing import Annotated

import typer

from glassworks.cli.options import Json, show


def check(
    name: Annotated[str, typer.Argument(help="An embedded name, or the folder of a model built alike.")] = "smallworld",
    as_json: Json = False,
) -> None:
    """Measure an embedded model: accuracy on every task, and whether its circuit is real."""
    from glassworks import studies

    show(studies.check(name), as_json)
