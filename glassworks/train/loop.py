"""The loop: one for every coder. It draws a batch, lets the coders learn from it, saves, and shows how it goes."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from glassworks.errors import BadInput
from glassworks.train.checkpoint import last, restore, save
from glassworks.train.journal import Journal
from glassworks.train.trainer import AuxiliaryLoss, Trainer


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
