"""Starts: the weights that training begins with. This module must not know what training does with them."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

BLOCK = 1024
"""Latents whose biases are found at a time."""


@final
@dataclass(frozen=True)
class Start:
    """How weights begin.

    Attributes:
        tied: encoder rows begin as the decoder's, where the widths allow; later both go their own way.
        decoder: length of a decoder row.
        encoder: length of an encoder row.
        fires: latents a token that are on in the beginning, each equally often; by chance where it is not given.
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
        own = read.repeat(1, repeats) if self.tied and not rest else torch.randn(latents, d_out, generator=generator)
        return {
            "w_enc": read * self.encoder,
            "b_enc": torch.zeros(latents),
            "w_dec": normalize(own) * self.decoder,
        }

    def cuts(self, w_enc: Float[Tensor, "latent d_in"], x: Float[Tensor, "token d_in"]) -> Float[Tensor, " latent"]:
        """What each latent must be above to be on as often as asked for; zeros where it is not asked for.

        Args:
            w_enc: the encoder.
            x: some scaled rows.
        """
        if self.fires is None:
            return x.new_zeros(len(w_enc))
        often = min(max(1, round(self.fires * len(x) / len(w_enc))), len(x))
        return torch.cat([(x @ rows.T).topk(often, dim=0).values[-1] for rows in w_enc.split(BLOCK)])
