"""What a coder in training makes of a batch, part by part: all that a loss term sees.

A coder is a sum of parts. Each reads some sites side by side with one matrix and writes some sites side by side
with another, so that an SAE, a crosscoder and one layer of a CLT are the same code.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glassworks.sites import Site
from glassworks.train.selection import LastCut, Selected

Batch = Mapping[str, Float[Tensor, "token d"]]
"""Site name -> scaled rows; the rows of all sites belong to the same tokens."""


@final
class CoderPart(nn.Module):
    """One encoder matrix and one decoder matrix, and what training must remember of their latents.

    Args:
        reads: the sites that it encodes, side by side.
        writes: the sites that it helps to write, side by side.
        weights: `w_enc (latent, d_in)`, `b_enc (latent)`, `w_dec (latent, d_out)`, perhaps `w_skip (d_in, d_out)`.
        learned: the gate's parameters.
        dead_window: a latent is dead after so many tokens without it.
    """

    w_enc: Any
    b_enc: Any
    w_dec: Any
    w_skip: Any
    silent: Tensor
    threshold: Tensor

    def __init__(
        self,
        reads: Sequence[Site],
        writes: Sequence[Site],
        weights: Mapping[str, Tensor],
        learned: Mapping[str, Tensor],
        dead_window: int,
    ) -> None:
        super().__init__()
        self.reads, self.writes, self.dead_window, self.cut = tuple(reads), tuple(writes), dead_window, LastCut()
        for name in ("w_enc", "b_enc", "w_dec", "w_skip"):
            self.register_parameter(name, nn.Parameter(weights[name]) if name in weights else None)
        self._learned = nn.ParameterDict({name: nn.Parameter(value) for name, value in learned.items()})
        self.register_buffer("silent", torch.zeros(len(self.b_enc), dtype=torch.long))
        self.register_buffer("threshold", torch.zeros(()))

    @property
    def learned(self) -> Mapping[str, Tensor]:
        """The gate's parameters."""
        return dict(self._learned.items())

    @property
    def norms(self) -> Float[Tensor, " latent"]:
        """Lengths of the decoder rows, over all sites that are written."""
        return self.w_dec.norm(dim=1)

    @property
    def dead(self) -> Bool[Tensor, " latent"]:
        """Which latents have been silent for longer than the dead-latent window."""
        return self.silent > self.dead_window

    def joined(self, batch: Batch) -> Float[Tensor, "token d_in"]:
        """What it reads, side by side."""
        return side_by_side([batch[site.name] for site in self.reads])


@final
@dataclass(frozen=True, eq=False)
class PartOutput:
    """What one part made of a batch.

    Attributes:
        part: the part.
        columns: which columns of the target it helps to write.
        read: what it read, side by side.
        selected: the pre-activations that its gate selects.
        values: its activations, as entries.
        on: 1 where a latent is on, as entries, with the gate's gradient.
        extra: the further pre-activations that loss terms need, by the term.
    """

    part: CoderPart
    columns: slice
    read: Float[Tensor, "token d_in"]
    selected: Selected
    values: Tensor
    on: Tensor
    extra: Mapping[Hashable, Selected]


@final
@dataclass(frozen=True, eq=False)
class CoderOutput:
    """What a coder made of a batch, everything in its scaled units.

    Attributes:
        target: what it should write, all sites side by side.
        nested: what it wrote, once for each Matryoshka prefix; the last is all of it.
        parts: what its parts made.
        bias: what it writes with all latents silent.
        sites: how many sites it writes.
        step: steps done before.
    """

    target: Float[Tensor, "token d_out"]
    nested: Float[Tensor, "prefix token d_out"]
    parts: list[PartOutput]
    bias: Float[Tensor, " d_out"]
    sites: int
    step: int = 0

    @property
    def written(self) -> Float[Tensor, "token d_out"]:
        """What it wrote with all its latents."""
        return self.nested[-1]

    @property
    def tokens(self) -> int:
        """How many rows."""
        return len(self.target)


def side_by_side(values: Sequence[Tensor]) -> Tensor:
    """Tensors along their last axis; one alone is not copied."""
    return values[0] if len(values) == 1 else torch.cat([*values], dim=-1)
