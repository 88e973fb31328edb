"""Progress of work whose end is not known: a line that counts on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def counting(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show tokens, rows and tokens per second on stderr.

    Args:
        name: of the work.

    Yields:
        What has to be called with the tokens and rows that were added since the last call.
    """
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(name, total=None)
        began = line = time.monotonic()
        tokens = rows = 0

        def report(more_tokens: int, more_rows: int) -> None:
            nonlocal tokens, rows, line
            tokens, rows = tokens + more_tokens, rows + more_rows
            now = time.monotonic()
            text = f"{name}: {tokens:,} tokens, {rows:,} rows, {tokens / max(now - began, 1e-9):,.0f} tokens/s"
            bar.update(task, description=text)
            if not console.is_terminal and now - line > SECONDS_BETWEEN_LINES:
                line = now
                console.print(text)

        yield report
