"""The loop: one for every coder. It draws a batch, lets the fleet learn from it, saves, and shows how it goes.

It must not know what a batch holds, nor what a member is.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final, runtime_checkable

from glassworks.errors import BadInput
from glassworks.train.checkpoint import Resumable, last, restore, save
from glassworks.train.fleet import Fleet
from glassworks.train.journal import Journal


@final
@dataclass(frozen=True)
class Plan:
    """Where to keep a training's state, and how to follow it.

    Attributes:
        folder: for checkpoints and `metrics.jsonl`; none keeps nothing.
        resume: go on from the last checkpoint; where there is one and this is not set, the training is refused.
        save_seconds: time between two checkpoints.
        log_steps: steps between two lines of metrics.
        show: whether to show a table that follows the training.
        journals: who gets the numbers too: `tensorboard`, `wandb`.
    """

    folder: Path | None = None
    resume: bool = False
    save_seconds: float = 300.0
    log_steps: int = 50
    show: bool = False
    journals: tuple[str, ...] = ()


@runtime_checkable
class Companion(Resumable, Protocol):
    """A loss of all members together, with a state of its own."""

    def __call__(self, fleet: Fleet, step: int) -> dict[str, float]:
        """Add its gradient to the members', and give its numbers."""
        ...


def fit(fleet: Fleet, plan: Plan | None = None, companion: Companion | None = None) -> Fleet:
    """Train a fleet in place, from a checkpoint where there is one.

    Ctrl-C saves and then raises KeyboardInterrupt; the same call with `resume` goes on exactly where it stopped.

    Args:
        fleet: what trains.
        plan: where to save, how to show.
        companion: a loss of all members together.

    Returns:
        The fleet.

    Raises:
        GlassworksError: no member is left, the stream or the disk fails, or the checkpoint is of another training.
    """
    plan = plan or Plan()
    also: dict[str, Resumable] = {"stream": fleet.stream}
    if companion is not None:
        also["companion"] = companion
    step = _resumed(fleet, also, plan)
    saved = began = time.monotonic()
    start = step
    with Journal(fleet.steps, step, plan.folder, plan.show, plan.journals) as journal, _interrupts() as interrupted:
        while step < fleet.steps:
            fleet.step(fleet.stream.draw(), step, companion)
            step += 1
            now = time.monotonic()
            journal.passed(step, (step - start) * fleet.stream.batch / max(now - began, 1e-9))
            if step % plan.log_steps == 0 or step == fleet.steps:
                journal.write(step, fleet.numbers())
            if plan.folder and (now - saved > plan.save_seconds or interrupted() or step == fleet.steps):
                save(fleet, also, step, plan.folder / "checkpoints")
                saved = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
    return fleet


def _resumed(fleet: Fleet, also: dict[str, Resumable], plan: Plan) -> int:
    if plan.folder is None:
        return 0
    folder = plan.folder / "checkpoints"
    if plan.resume:
        return restore(fleet, also, folder)
    if last(folder) is not None:
        raise BadInput(f"There is a training in {plan.folder}: resume it, or remove it to train anew.")
    return 0


@contextmanager
def _interrupts() -> Iterator:
    """Turn Ctrl-C into a question that the loop asks after each step; a second one stops at once."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        old = signal.signal(signal.SIGINT, note)
    except ValueError:  # only the main thread may; elsewhere Ctrl-C stays what it is
        yield lambda: False
        return
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, old)
