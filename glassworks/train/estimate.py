"""Estimates: what a training would take, before it begins. This module must not train anything."""

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from glassworks.harvest import Stream
from glassworks.train.objective import Objective
from glassworks.train.terms import L1, Silence
from glassworks.train.trainee import Member

BYTES = 4
STATES = 3
"""Numbers kept for each parameter: itself, and two moments."""
OF_PRODUCT = 1.5
"""A sparse step takes so many times its encoder product; a dense one, five products and their element-wise work."""
OF_DENSE = 8.0


def estimate(members: Sequence[Member], stream: Stream) -> dict[str, Any]:
    """Parameters, memory, disk, tokens and hours of a fleet, the time by a timed product of each shape.

    Args:
        members: the table.
        stream: gives their batches.
    """
    sizes = [parameters(each.objective, stream.widths) for each in members]
    steps = max(each.objective.steps for each in members)
    seconds = sum(
        each.objective.steps * _seconds(*shape, stream.batch, each.objective.products) * _products(each.objective)
        for each in members
        for shape in shapes(each.objective, stream.widths)
    )
    return {
        "coders": len(members),
        "parameters": sum(sizes),
        "tokens": steps * stream.batch,
        "steps": steps,
        "memory GB": (sum(sizes) * STATES + max(sizes)) * BYTES / 1e9,
        "scope GB": sum(sizes) * BYTES / 1e9,
        "checkpoint GB": sum(sizes) * STATES * BYTES / 1e9,
        "hours": seconds / 3600,
    }


def parameters(objective: Objective, widths: dict[str, int]) -> int:
    """How many numbers a coder has."""
    count = 0
    for reads, writes in objective.layout.parts:
        d_in, d_out = (sum(widths[site.name] for site in sites) for sites in (reads, writes))
        count += objective.width * (d_in + d_out + 1) + (d_in * d_out if objective.layout.skip else 0)
    gates = objective.gate.parameters(torch.ones(1))
    return count + sum(widths[site.name] for site in objective.layout.writes) + len(gates) * _latents(objective)


def shapes(objective: Objective, widths: dict[str, int]) -> list[tuple[int, int]]:
    """Width of what each part reads, and its latents."""
    return [(sum(widths[site.name] for site in reads), objective.width) for reads, _ in objective.layout.parts]


def _latents(objective: Objective) -> int:
    return objective.width * len(objective.layout.parts)


def _products(objective: Objective) -> float:
    """How many encoder products a step takes as long as."""
    dense = any(isinstance(term, Silence | L1) for _, term in objective.terms)
    return OF_DENSE if dense else OF_PRODUCT


@cache
def _seconds(d_in: int, latents: int, batch: int, products: str) -> float:
    """Seconds of one encoder product, by timing a part of it."""
    rows = max(1, min(batch, 2**31 // (2 * d_in * latents)))
    kind = getattr(torch, products)
    x, w = torch.randn(rows, d_in, dtype=kind), torch.randn(d_in, latents, dtype=kind)
    began = time.perf_counter()
    _ = x @ w
    return (time.perf_counter() - began) * batch / rows
