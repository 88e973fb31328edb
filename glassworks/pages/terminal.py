"""Facts on a terminal: lines of `name  value`, and a table for every list of records; and how far work has come."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

SECONDS_BETWEEN_LINES = 30.0


def facts(values: Mapping[str, Any]) -> Any:
    """A rich renderable of named values: records as tables, everything else as a line each."""
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    wide, parts = max([15, *map(len, values)]) + 1, []
    for name, value in values.items():
        if not (isinstance(value, list) and value and isinstance(value[0], dict)):
            parts.append(Text.assemble((f"{name:<{wide}}", "bold"), format_value(value)))
            continue
        table = Table(title=escape(name), title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
        for column, first in value[0].items():
            table.add_column(column, justify="right" if isinstance(first, int | float) else "left", overflow="fold")
        for row in value:
            table.add_row(*(Text(format_value(row.get(column, ""))) for column in value[0]))
        parts.append(table)
    return Group(*parts)


def findings(lines: Iterable[tuple[str, str]]) -> Any:
    """A rich renderable of texts, each behind its heading."""
    from rich.console import Group
    from rich.text import Text

    return Group(*(Text.assemble((heading, "bold"), "  ", text) for heading, text in lines))


@contextmanager
def progress_line(name: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr how far work has come: a live line on a terminal, a line now and then elsewhere.

    Yields:
        What has to be called with the line, as often as it changes.
    """
    from rich.console import Console

    console, last = Console(stderr=True), time.monotonic()
    with console.status(name) as status:

        def update(text: str) -> None:
            nonlocal last
            status.update(text)
            if not console.is_terminal and time.monotonic() - last > SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                console.print(text)

        yield update


def format_value(value: Any) -> str:
    """A value in few characters: three digits of a fraction, thousands with commas, lists and mappings in a line."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(format_value, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(item)}" for key, item in value.items())
    return "" if value is None else str(value)
