"""Batches of made-up activations, and the time that a trainer takes for each; runs in every library's environment."""

import json
import resource
import statistics
import sys
import time
from typing import Any

import torch

BATCH, K = 4096, 32
RATE = 3e-4
CONTEXT, HEADS, VOCABULARY = 128, 4, 4096
"""Of the small language model that end-to-end runs read."""
WARM, STEPS = map(int, sys.argv[5:7]) if len(sys.argv) > 6 else (2, 5)
"""Steps that are not measured, and that are; the command line may end with others."""


def activations(d: int, batches: int = 2) -> torch.Tensor:
    """Rows of 24 of 4 d random directions and some noise, of mean square length 1."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4 * d, d, generator=draw))
    rows = 0.05 * torch.randn(batches * BATCH, d, generator=draw)
    on = torch.randint(0, 4 * d, (24, len(rows)), generator=draw)
    for each in on:
        rows += directions[each] * (0.5 + torch.rand(len(rows), 1, generator=draw))
    return rows * rows.square().sum(1).mean().rsqrt()


def megabytes() -> int:
    """The largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Clock:
    """Notes when each step begins and the last one ends."""

    def __init__(self) -> None:
        self.before = megabytes()
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """Note the time; a trainer that ends without asking for one batch too many calls it at its end."""
        if len(self.marks) <= WARM + STEPS:
            self.marks.append((time.process_time(), time.perf_counter()))

    def report(self, **more: Any) -> None:
        """Print the median step, processor seconds and seconds, and the memory that training took, as JSON."""
        steps = list(zip(self.marks, self.marks[1:], strict=False))[WARM:]
        cpu, wall = (statistics.median(after[clock] - before[clock] for before, after in steps) for clock in (0, 1))
        found = {"cpu": round(cpu, 4), "wall": round(wall, 4), "megabytes": megabytes() - self.before}
        print("RESULT " + json.dumps(found | more), flush=True)


class Feed(Clock):
    """Gives a trainer its batches; all that it does between two requests is its step."""

    def __init__(self, d: int, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.rows, self.given = activations(d), 0
        super().__init__()

    def __iter__(self) -> "Feed":
        return self

    def __len__(self) -> int:
        return WARM + STEPS

    def __next__(self) -> torch.Tensor:
        self.mark()
        if self.given == len(self):
            raise StopIteration
        self.given += 1
        return self.rows.split(BATCH)[self.given % (len(self.rows) // BATCH)].clone()


def asked() -> tuple[str, int, int, int]:
    """What the command line asks for: kind, d, latents, threads."""
    kind, *numbers = sys.argv[1:]
    d, latents, threads = map(int, numbers[:3])
    return kind, d, latents, threads
