"""The sizes of the family and the recipe that trains them, as plain values.

The embedding table is tied, random and frozen: a trainable one stores the facts itself (a city's state is then
readable from its embedding), and the circuit that the world is there for never forms. This file must not know how
training runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """The shape of one model: width, layers, query heads (one key-value head), and width of the MLP."""

    width: int
    layers: int
    heads: int
    mlp: int


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        steps: number of optimiser steps.
        rows: rows of a batch.
        length: tokens of a row; several documents share one.
        rate: peak learning rate of Muon (matrices) and AdamW (norms).
        warmup: steps over which the rate rises.
        decay: last share of the steps over which it falls to zero.
        weight_decay: of the matrices.
        context_weight: weight of tokens that are no answer; answers weigh 1.
        seed: of the weights and of the corpus stream.
    """

    steps: int = 12_000
    rows: int = 16
    length: int = 64
    rate: float = 4e-3
    warmup: int = 50
    decay: float = 0.6
    weight_decay: float = 0.5
    context_weight: float = 0.5
    seed: int = 0


SIZES = {
    "smallworld-s": Size(width=96, layers=3, heads=4, mlp=384),
    "smallworld-m": Size(width=128, layers=4, heads=4, mlp=512),
    "smallworld-l": Size(width=192, layers=6, heads=4, mlp=768),
}
RECIPES = {
    "smallworld-s": Recipe(seed=1),
    "smallworld-m": Recipe(),
    "smallworld-l": Recipe(steps=7_000, seed=2),
    "smallworld-s-it": Recipe(steps=2_000, rate=5e-4, decay=0.9, weight_decay=0.1, seed=11),
    "smallworld-m-it": Recipe(steps=1_200, rate=5e-4, decay=0.9, weight_decay=0.1, seed=10),
    "smallworld-l-it": Recipe(steps=1_600, rate=5e-4, decay=0.9, weight_decay=0.1, seed=12),
}
BASES: Mapping[str, str] = {f"{name}-it": name for name in SIZES}
"""Instruct model -> base model."""
