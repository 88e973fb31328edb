"""The journal of a training: a line of JSON for each coder now and then, and what a person sees meanwhile.

`metrics.jsonl` is always written where there is a folder; TensorBoard and Weights & Biases get the same numbers where
they are asked for and installed.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from glassworks.errors import BadInput, NotFound, nearest

Numbers = Mapping[str, Mapping[str, float]]
"""Coder -> name -> number."""

SECONDS_BETWEEN_LINES = 30.0
LISTED = 24
"""So many coders are listed at the most; all are in the file."""


@final
class Journal:
    """Writes down and shows how a training goes; a context manager.

    Args:
        steps: in total.
        step: done before; later lines of an older run are removed, so that none is there twice.
        folder: gets `metrics.jsonl`; none writes nothing.
        show: whether to show a table that follows the training.
        also: `tensorboard`, `wandb`.
    """

    def __init__(self, steps: int, step: int, folder: Path | None, show: bool, also: Sequence[str] = ()) -> None:
        self.file = None if folder is None else folder / "metrics.jsonl"
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            _cut(self.file, step)
        unknown = [name for name in also if name not in WRITERS]
        if unknown:
            raise NotFound(f"There is no journal {unknown[0]!r}; {nearest(unknown[0], WRITERS)}.")
        self.writers = [WRITERS[name](folder) for name in also]
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
        self.bar = Progress(*columns, TimeRemainingColumn())
        self.task = self.bar.add_task("training", total=steps, completed=step, speed="")
        self.steps, self.console, self.show, self.printed = steps, Console(stderr=True), show, 0.0
        self.live = Live(self.bar, console=self.console, transient=True) if show and self.console.is_terminal else None

    def __enter__(self) -> "Journal":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def passed(self, step: int, speed: float) -> None:
        """Note that a step is done, at so many tokens per second."""
        self.bar.update(self.task, completed=step, speed=f"{speed:,.0f} tokens/s")

    def write(self, step: int, numbers: Numbers) -> None:
        """Write the numbers of all coders at a step."""
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as stream:
                for coder, its in numbers.items():
                    stream.write(json.dumps({"step": step, "coder": coder, **its}) + "\n")
        flat = {f"{coder}/{name}": value for coder, its in numbers.items() for name, value in its.items()}
        for writer in self.writers:
            writer(step, flat)
        if self.live is not None:
            names = list(dict.fromkeys(name for its in numbers.values() for name in its))
            table = Table("coder", *names, box=None)
            for coder, its in list(numbers.items())[:LISTED]:
                table.add_row(coder, *(f"{its[name]:.4g}" if name in its else "" for name in names))
            self.live.update(Group(table, self.bar))
        elif self.show and (time.monotonic() - self.printed > SECONDS_BETWEEN_LINES or step == self.steps):
            # where no table can follow: the figures that all coders have, averaged over them
            self.printed, all_of = time.monotonic(), list(numbers.values())
            names = [name for name in (all_of[0] if all_of else ()) if all(name in its for its in all_of)]
            means = (f"{name} {sum(its[name] for its in all_of) / len(all_of):.4g}" for name in names)
            self.console.print(f"step {step} of {self.steps}, {len(all_of)} coders: {', '.join(means)}")


def _cut(file: Path, step: int) -> None:
    """Remove lines of later steps, and half a line at the end: a run that was killed wrote them."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break
    file.write_text("".join(kept) if step else "", encoding="utf-8")


def _tensorboard(folder: Path | None) -> Callable[[int, dict[str, float]], None]:
    writer: Any = _installed("torch.utils.tensorboard", "tensorboard").SummaryWriter(folder)

    def write(step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def _wandb(folder: Path | None) -> Callable[[int, dict[str, float]], None]:
    run: Any = _installed("wandb", "wandb").init(project="glassworks", dir=folder, resume="allow")
    return lambda step, numbers: run.log(numbers, step=step)


def _installed(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise BadInput(f"The package {package} is not installed; pip install 'glassworks[{package}]'.") from error


WRITERS = {"tensorboard": _tensorboard, "wandb": _wandb}
