"""The loop: one for every coder. It draws a batch, lets the coders learn from it, saves, and shows how it goes.

Its journal writes a line of JSON for each coder now and then: always to `metrics.jsonl` where there is a folder, and to
TensorBoard and Weights & Biases where they are asked for and installed.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from glassworks.errors import BadInput, NotFound, nearest
from glassworks.train.checkpoint import last, restore, save
from glassworks.train.trainer import AuxiliaryLoss, Trainer

Numbers = Mapping[str, Mapping[str, float]]
"""Coder -> name -> number."""

SECONDS_BETWEEN_LINES = 30.0
LISTED = 24
"""So many coders are listed at the most; all are in the file."""


def fit(
    trainer: Trainer,
    folder: Path | None = None,
    resume: bool = False,
    auxiliary: AuxiliaryLoss | None = None,
    save_seconds: float = 300.0,
    log_steps: int = 50,
    show: bool = False,
    journals: Sequence[str] = (),
) -> Trainer:
    """Train all coders of a trainer in place, from a checkpoint where there is one.

    Ctrl-C saves and then raises KeyboardInterrupt; the same call with `resume` goes on exactly where it stopped.

    Args:
        trainer: what trains.
        folder: for checkpoints and `metrics.jsonl`; none keeps nothing.
        resume: go on from the last checkpoint; where there is one and this is not set, the training is refused.
        auxiliary: a loss of all coders together.
        save_seconds: time between two checkpoints.
        log_steps: steps between two lines of metrics.
        show: whether to show a table that follows the training.
        journals: who gets the numbers too: `tensorboard`, `wandb`.

    Returns:
        The trainer.

    Raises:
        GlassworksError: no coder is left, the stream or the disk fails, or the checkpoint is of another training.
    """
    step, checkpoints = 0, folder and folder / "checkpoints"
    if checkpoints and resume:
        step = restore(trainer, auxiliary, checkpoints)
    elif checkpoints and last(checkpoints) is not None:
        raise BadInput(f"There is a training in {folder}: resume it, or remove it to train anew.")
    saved = began = time.monotonic()
    start = step
    with Journal(trainer.steps, step, folder, show, journals) as journal, _interrupts() as interrupted:
        while step < trainer.steps:
            trainer.step(trainer.stream.draw(), step, auxiliary)
            step += 1
            now = time.monotonic()
            journal.passed(step, (step - start) * trainer.stream.batch / max(now - began, 1e-9))
            if step % log_steps == 0 or step == trainer.steps:
                journal.write(step, trainer.numbers())
            if checkpoints and (now - saved > save_seconds or interrupted() or step == trainer.steps):
                save(trainer, auxiliary, step, checkpoints)
                saved = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
    return trainer


@contextmanager
def _interrupts() -> Iterator:
    """Turn Ctrl-C into a question that the loop asks after each step; a second one stops at once."""
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        old = signal.signal(signal.SIGINT, note)
    except ValueError:  # only the main thread may; elsewhere Ctrl-C stays what it is
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, old)


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
