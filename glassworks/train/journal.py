"""The journal of a training: a line of JSON for each member now and then, and what a person sees meanwhile.

`metrics.jsonl` is always written where there is a folder; TensorBoard and Weights & Biases get the same numbers where
they are asked for and installed. This module must not know what the numbers mean.
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
"""Member -> name -> number."""

SECONDS_BETWEEN_LINES = 30.0
SHOWN = 24
"""So many members are shown at the most; all are in the file."""


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
        self.writers = [_writer(name, folder) for name in also]
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
        self.bar = Progress(*columns, TimeRemainingColumn())
        self.task = self.bar.add_task("training", total=steps, completed=step, speed="")
        self.steps, self.console, self.show, self.told = steps, Console(stderr=True), show, 0.0
        self.live = Live(self.bar, console=self.console, transient=True) if show and self.console.is_terminal else None

    def __enter__(self) -> "Journal":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def passed(self, step: int, speed: float) -> None:
        """Note that a step is done, at so many tokens a second."""
        self.bar.update(self.task, completed=step, speed=f"{speed:,.0f} tokens/s")

    def write(self, step: int, numbers: Numbers) -> None:
        """Write the numbers of all members at a step."""
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as stream:
                for member, found in numbers.items():
                    stream.write(json.dumps({"step": step, "member": member, **found}) + "\n")
        for writer in self.writers:
            writer(
                step, {f"{member}/{name}": value for member, found in numbers.items() for name, value in found.items()}
            )
        if self.live is not None:
            self.live.update(Group(_table(numbers), self.bar))
        elif self.show and (time.monotonic() - self.told > SECONDS_BETWEEN_LINES or step == self.steps):
            self.told = time.monotonic()
            self.console.print(f"step {step} of {self.steps}, {_mean(numbers)}")


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


def _mean(numbers: Numbers) -> str:
    """The figures that all members have, averaged over them: a line for where no table can follow."""
    names = [name for name in next(iter(numbers.values()), {}) if all(name in found for found in numbers.values())]
    means = (f"{name} {sum(found[name] for found in numbers.values()) / len(numbers):.4g}" for name in names)
    return f"{len(numbers)} coders: " + ", ".join(means)


def _table(numbers: Numbers) -> Table:
    names = list(dict.fromkeys(name for found in numbers.values() for name in found))
    table = Table("member", *names, box=None)
    for member, found in list(numbers.items())[:SHOWN]:
        table.add_row(member, *(f"{found[name]:.4g}" if name in found else "" for name in names))
    return table


def _writer(name: str, folder: Path | None) -> Callable[[int, dict[str, float]], None]:
    if name not in WRITERS:
        raise NotFound(f"There is no journal {name!r}; {nearest(name, WRITERS)}.")
    return WRITERS[name](folder)


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
