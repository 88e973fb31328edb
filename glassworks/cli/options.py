"""Options that several commands share, and how they print."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from glassworks.errors import BadInput, NotFound

Model = Annotated[str, typer.Option("--model", "-m", help="A folder, an embedded name, or owner/name on the hub.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]

WIDE = 200
"""Columns of a table that goes to a file or another program, where nothing needs to be cut."""


def opened(place: Path, scope: Any = None) -> Any:
    """Open a graph: its folder, a folder that `trace` wrote, or a file of another program."""
    from glassworks.circuits import load_graph

    return load_graph(place / "graph" if (place / "graph").is_dir() else place, scope)


def lines_of(file: Path) -> list[str]:
    """The lines of a text file, empty ones included; NotFound where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"The file {file} cannot be read as text ({error}).") from error


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts as JSON, or as lines of `name  value` with tables for lists of records."""
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDE
    console = Console(soft_wrap=True, highlight=False, width=width)
    wide = max([15, *map(len, facts)]) + 1
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            console.print(_table(name, value))
        else:
            console.print(f"[bold]{name:<{wide}}[/bold]", end="")
            console.print(_plain(value), markup=False)


def _table(name: str, rows: list[dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for column in rows[0]:
        justify = "right" if isinstance(rows[0][column], int | float) else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(row.get(column, "")) for column in rows[0]))
    return table


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(_plain(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    return "" if value is None else str(value)


def write_page(page: Path, html: str) -> None:
    """Write a page, whole or not at all; BadInput where the place cannot be written."""
    from glassworks.artefacts import replace_text

    try:
        replace_text(page, html)
    except OSError as error:
        raise BadInput(f"The page {page} cannot be written ({error.strerror}); choose another place.") from error
