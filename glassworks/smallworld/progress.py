"""Showing how training goes: a bar on a terminal, a line now and then elsewhere. This file must not know the model."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from glassworks.smallworld.pretrain import Report

SECONDS_BETWEEN_LINES = 30.0
SMOOTHING = 0.98


@contextmanager
def progress(name: str, start: int, steps: int) -> Iterator[Report]:
    """Show a progress bar on a terminal, or a line now and then elsewhere, with loss and tokens per second.

    Args:
        name: what is being trained.
        start: steps that are done already.
        steps: steps in all.

    Yields:
        What has to be called after each step with the step's number, its loss and its number of tokens.
    """
    console = Console(stderr=True)
    text = TextColumn("loss {task.fields[loss]:.3f}, {task.fields[speed]:,.0f} tokens/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=steps, completed=start, loss=0.0, speed=0.0)
        began, seen, mean, line = time.monotonic(), 0, 0.0, time.monotonic()

        def report(step: int, loss: float, tokens: int) -> None:
            nonlocal seen, mean, line
            seen += tokens
            mean = loss if not mean else SMOOTHING * mean + (1 - SMOOTHING) * loss
            now = time.monotonic()
            speed = seen / max(now - began, 1e-9)
            bar.update(task, completed=step, loss=mean, speed=speed)
            if not console.is_terminal and now - line > SECONDS_BETWEEN_LINES:
                line = now
                console.print(f"{name}: step {step}/{steps}, loss {mean:.3f}, {speed:,.0f} tokens/s")

        yield report
