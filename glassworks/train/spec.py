"""Specs: what a coder is and what it minimises, as one value.

A spec is sites to read and write (the layout), a gate, loss terms, and the numbers of the optimiser.
"""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from glassworks.errors import BadInput
from glassworks.train.gates import Gate
from glassworks.train.layouts import Layout
from glassworks.train.schedule import Ramp, Rate
from glassworks.train.terms import Term

BLOCK = 1024
"""Latents whose first biases are computed at a time."""


@final
@dataclass(frozen=True)
class Adam:
    """The numbers of the optimiser.

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
class Start:
    """How weights begin.

    Attributes:
        tied: encoder rows begin as the decoder's, where the widths allow; later both go their own way.
        decoder: length of a decoder row.
        encoder: length of an encoder row.
        fires: latents per token that are on in the beginning, each equally often; by chance where it is not given.
        raised: thresholds are raised for that, and not biases lowered; for gates that learn thresholds.
        pre_bias: subtract the output's bias from the input, where both ends are the same sites.
    """

    tied: bool = True
    decoder: int | float = 1.0
    encoder: int | float = 1.0
    fires: int | float | None = None
    raised: bool = False
    pre_bias: bool = False

    def weights(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the matrices of one part.

        Args:
            shape: latents, width of what it reads, width of what it writes.
            generator: draws the directions.
        """
        latents, d_in, d_out = shape
        read = normalize(torch.randn(latents, d_in, generator=generator))
        repeats, rest = divmod(d_out, d_in)
        write = read.repeat(1, repeats) if self.tied and not rest else torch.randn(latents, d_out, generator=generator)
        return {
            "w_enc": read * self.encoder,
            "b_enc": torch.zeros(latents),
            "w_dec": normalize(write) * self.decoder,
        }

    def cuts(self, w_enc: Float[Tensor, "latent d_in"], x: Float[Tensor, "token d_in"]) -> Float[Tensor, " latent"]:
        """What each latent must be above to be on as often as `fires` says; zeros where that is not given.

        Args:
            w_enc: the encoder.
            x: some scaled rows.
        """
        if self.fires is None:
            return x.new_zeros(len(w_enc))
        often = min(max(1, round(self.fires * len(x) / len(w_enc))), len(x))
        return torch.cat([(x @ rows.T).topk(often, dim=0).values[-1] for rows in w_enc.split(BLOCK)])


@final
@dataclass(frozen=True)
class Dead:
    """When a latent is dead, and when dead ones are resampled.

    Attributes:
        window: a latent is dead after so many tokens without it.
        every: steps between two resamplings; 0 for none.
        until: no resampling after this step.
    """

    window: int = 1_000_000
    every: int = 0
    until: int = 0


@final
@dataclass(frozen=True)
class Spec:
    """What one coder is, and what it minimises.

    Attributes:
        name: of the coder in its scope, unique there.
        layout: the sites that it reads and writes.
        width: latents of each part.
        gate: which latents are on.
        terms: weight over the steps and term; their sum is the loss.
        adam: the optimiser.
        steps: how many batches it trains on.
        start: how its weights begin.
        prefixes: widths of nested dictionaries (Matryoshka), ascending, the last one the width; none for one alone.
        centred: rows are centred and scaled to total variance 1, so that a squared error is the fraction of variance
            unexplained; otherwise only scaled, to mean square length 1 (Gemma Scope); by one number for the site.
        unit: decoder rows keep length 1: the gradient along them is taken out and they are rescaled after every step.
        dead: when a latent is dead, and whether dead ones are resampled.
        products: type of the encoder's product, float32 or bfloat16.
        seed: of its initial directions.
        l0: latents per token that it aims at, for the scope's listing.
        tags: what else sets it apart there.
    """

    name: str
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
    seed: int = 0
    l0: int | float | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise BadInput for widths, steps or prefixes that make no coder."""
        if self.width < 1 or self.steps < 1:
            raise BadInput(
                f"A coder of {self.width} latents cannot be trained for {self.steps} steps; both must be > 0."
            )
        if self.prefixes and (list(self.prefixes) != sorted(set(self.prefixes)) or self.prefixes[-1] != self.width):
            raise BadInput(f"The prefixes {list(self.prefixes)} must ascend and end at the width, {self.width}.")
        if self.start.pre_bias and not self.layout.same:
            raise BadInput(f"A {self.layout.kind} cannot subtract its output's bias from its input: the sites differ.")
        if self.products not in ("float32", "bfloat16"):
            raise BadInput(f"Products are float32 or bfloat16, not {self.products!r}.")
