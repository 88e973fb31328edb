"""Objectives: what a coder is and what it minimises, as one value: a row of a fleet's table.

An objective is sites to read and write (the layout), a gate, loss terms, and the numbers of the descent. This
module must not know how any of it is computed.
"""

from dataclasses import dataclass, field
from typing import final

from glassworks.errors import BadInput
from glassworks.train.gates import Gate
from glassworks.train.layouts import Layout
from glassworks.train.revive import Dead
from glassworks.train.schedule import Ramp, Rate
from glassworks.train.start import Start
from glassworks.train.terms import Term


@final
@dataclass(frozen=True)
class Adam:
    """The numbers of the descent.

    Attributes:
        rate: the learning rate over the steps.
        betas: decay of the moments.
        eps: added to the root of the second moment.
        clip: largest length of the whole gradient; 0 for no limit.
    """

    rate: Rate
    betas: tuple[float, float] = (0.9, 0.999)
    eps: int | float = 1e-8
    clip: int | float = 1.0


@final
@dataclass(frozen=True)
class Objective:
    """What one coder is, and what it minimises.

    Attributes:
        layout: the sites that it reads and writes.
        width: latents of each part.
        gate: which latents are on.
        terms: weight over the steps and term; their sum is the loss.
        adam: the descent.
        steps: how many batches it sees.
        start: how its weights begin.
        prefixes: widths of nested dictionaries (Matryoshka), ascending, the last one the width; none for one alone.
        centred: rows are centred and scaled to total variance 1, so that a squared error is the fraction of variance
            unexplained; otherwise only scaled, to mean square length 1 (Gemma Scope); by one number for the site.
        unit: decoder rows keep length 1: the gradient along them is taken out and they are rescaled after every step.
        dead: when a latent is dead, and whether dead ones are resampled.
        products: type of the encoder's product, float32 or bfloat16.
    """

    layout: Layout
    width: int
    gate: Gate
    terms: tuple[tuple[Ramp, Term], ...]
    adam: Adam
    steps: int
    start: Start = field(default_factory=Start)
    prefixes: tuple[int, ...] = ()
    centred: bool = True
    unit: bool = False
    dead: Dead = field(default_factory=Dead)
    products: str = "float32"

    def __post_init__(self) -> None:
        """Raise BadInput for widths, steps or prefixes that make no coder."""
        if self.width < 1 or self.steps < 1:
            raise BadInput(
                f"A coder of {self.width} latents cannot be trained for {self.steps} steps; both must be > 0."
            )
        if self.prefixes and (list(self.prefixes) != sorted(set(self.prefixes)) or self.prefixes[-1] != self.width):
            raise BadInput(f"The prefixes {list(self.prefixes)} must ascend and end at the width, {self.width}.")
        if self.start.pre_bias and any(reads != self.layout.writes for reads, _ in self.layout.parts):
            raise BadInput(f"A {self.layout.kind} cannot subtract its output's bias from its input: the sites differ.")
        if self.products not in ("float32", "bfloat16"):
            raise BadInput(f"Products are float32 or bfloat16, not {self.products!r}.")
