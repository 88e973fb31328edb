"""The loop: one for every objective.

It draws a batch, sums the losses, steps the optimiser, saves, and shows how it goes. It must not know what a
batch holds.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from glassworks.errors import GlassworksError
from glassworks.train.checkpoint import State, restore, save
from glassworks.train.objective import Objective
from glassworks.train.schedule import Rate
from glassworks.train.streams import Stream


@final
@dataclass(frozen=True)
class Plan:
    """How long and how fast to train, and where to keep the state.

    Attributes:
        steps: in total.
        rate: the learning rate over the steps.
        clip: largest length of a learner's gradient.
        name: says which training this is; a checkpoint of another name is refused.
        folder: for the checkpoint and `metrics.jsonl`; none keeps nothing.
        save_seconds: time between two checkpoints.
        log_steps: steps between two lines of metrics.
        show: whether to show a progress bar.
    """

    steps: int
    rate: Rate = field(default_factory=lambda: Rate(2e-3))
    clip: float = 1.0
    name: str = "training"
    folder: Path | None = None
    save_seconds: float = 120.0
    log_steps: int = 50
    show: bool = False


def fit(objective: Objective, stream: Stream, plan: Plan) -> dict[str, float]:
    """Train an objective's learners in place, from a checkpoint where there is one.

    Ctrl-C saves and then raises KeyboardInterrupt; the same call goes on exactly where it stopped.

    Args:
        objective: what to minimise.
        stream: gives its batches.
        plan: how long, how fast, where to save.

    Returns:
        The last losses by name.

    Raises:
        GlassworksError: a loss is not finite, or the checkpoint belongs to another training.
    """
    state = State(objective.learners, _optimiser(objective), stream.generators())
    what: dict[str, Any] = {"name": plan.name, "steps": plan.steps, "rate": asdict(plan.rate), "clip": plan.clip}
    if plan.folder is not None:
        restore(state, plan.folder / "checkpoint", what)
    losses: dict[str, float] = {}
    saved = time.monotonic()
    with _progress(plan, state.step) as report, _interrupts() as interrupted:
        while state.step < plan.steps:
            losses = _step(objective, stream, plan, state)
            report(state.step, losses)
            due = time.monotonic() - saved > plan.save_seconds or interrupted() or state.step == plan.steps
            if plan.folder is not None and due:
                save(state, plan.folder / "checkpoint", what)
                saved = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
    return losses


def _optimiser(objective: Objective) -> torch.optim.Optimizer:
    groups = [{"params": list(learner.parameters())} for learner in objective.learners]
    return torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.99), fused=True)


def _step(objective: Objective, stream: Stream, plan: Plan, state: State) -> dict[str, float]:
    for group in state.optimiser.param_groups:
        group["lr"] = plan.rate(state.step, plan.steps)
    losses = objective.losses(stream.draw(), state.step / plan.steps)
    total = torch.stack([*losses.values()]).sum()
    if not bool(total.isfinite()):
        bad = ", ".join(name for name, value in losses.items() if not bool(value.isfinite()))
        raise GlassworksError(f"The loss {bad} is not finite at step {state.step}; lower the learning rate.")
    total.backward()
    for learner in objective.learners:
        torch.nn.utils.clip_grad_norm_(learner.parameters(), plan.clip)
    state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)
    state.step += 1
    return _numbers(losses)


def _numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return dict(zip(losses, torch.stack([*losses.values()]).detach().tolist(), strict=True))


@contextmanager
def _progress(plan: Plan, start: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    columns = (TextColumn(plan.name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    bar = Progress(*columns, TimeRemainingColumn()) if plan.show else None
    with bar or nullcontext():
        task = bar.add_task(plan.name, total=plan.steps, completed=start, loss="") if bar else None

        def report(step: int, losses: dict[str, float]) -> None:
            if bar is not None and task is not None:
                bar.update(task, completed=step, loss=f"loss {sum(losses.values()):.4f}")
            if plan.folder is not None and (step % plan.log_steps == 0 or step == plan.steps):
                plan.folder.mkdir(parents=True, exist_ok=True)
                with (plan.folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"step": step, **losses}) + "\n")

        yield report


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
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
