"""Transcoders: one read site, one write site; a sparse autoencoder is one with the same site at both ends."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from jaxtyping import Float, Int
from torch import Tensor, nn

from glassworks.coders.activations import Activation
from glassworks.coders.latents import Latents
from glassworks.coders.linear import LinearCoder, check_shapes, wide, widened
from glassworks.coders.weights import Matrix
from glassworks.errors import BadInput
from glassworks.sites import Site


@final
class Transcoder(LinearCoder):
    """One read site, one write site: `y = activation(w_enc x + b_enc) @ w_dec + b_dec (+ x @ w_skip)`.

    A transcoder reads an MLP's input and writes its output (Dunefsky et al. 2024, arXiv 2406.11944; with a skip
    path: Paulo et al. 2025, arXiv 2501.18823). With the same site at both ends it is a sparse autoencoder.

    Args:
        read: the site that it reads.
        write: the site that it writes.
        activation: which latents are on.
        weights: `w_enc (d_latent, d_in)`, `b_enc (d_latent)`, `w_dec (d_latent, d_out)`, `b_dec (d_out)` and
            perhaps `w_skip (d_in, d_out)`; `w_enc` and `w_dec` may be `Stored`.
        prefixes: widths of the nested dictionaries that a Matryoshka coder was trained as, ascending.

    Raises:
        BadInput: a weight is missing, unknown, or of a shape that does not fit the others.
    """

    w_dec: Any  # a parameter, or Stored
    b_dec: nn.Parameter
    w_skip: nn.Parameter | None

    def __init__(
        self,
        read: Site,
        write: Site,
        activation: Activation,
        weights: Mapping[str, Matrix],
        prefixes: Sequence[int] = (),
    ) -> None:
        super().__init__([read], [write], activation, weights, prefixes)
        if "w_skip" not in weights:
            self.w_skip = None

    @staticmethod
    def check(reads: Sequence[Site], writes: Sequence[Site], weights: Mapping[str, Matrix]) -> None:
        """Raise BadInput where a weight is missing, unknown, or of a shape that does not fit the others."""
        needed = {"w_enc", "b_enc", "w_dec", "b_dec"}
        if not needed <= set(weights) <= needed | {"w_skip"}:
            raise BadInput(
                "A transcoder has the weights w_enc, b_enc, w_dec, b_dec and perhaps w_skip; "
                f"these are {sorted(weights)}."
            )
        if weights["w_enc"].ndim != 2 or weights["w_dec"].ndim != 2:
            raise BadInput("A transcoder's w_enc and w_dec must be matrices.")
        (d_latent, d_in), d_out = weights["w_enc"].shape, weights["w_dec"].shape[1]
        right = {"w_enc": (d_latent, d_in), "b_enc": (d_latent,), "w_dec": (d_latent, d_out), "b_dec": (d_out,)}
        check_shapes(weights, right | {"w_skip": (d_in, d_out)})

    def like(self, activation: Activation, weights: Mapping[str, Matrix], prefixes: Sequence[int] = ()) -> "Transcoder":
        """A transcoder between the same sites with other weights."""
        return Transcoder(self.reads[0], self.writes[0], activation, weights, prefixes)

    @property
    def d_out(self) -> int:
        """Width of the write site."""
        return self.w_dec.shape[1]

    def decode(self, latents: Latents, write: Site | None = None) -> Float[Tensor, "*token d_out"]:
        """`activations @ w_dec + b_dec`, touching the rows of active latents only."""
        self.check_write(write)
        return (latents.total(self.w_dec) + self.b_dec).reshape(*latents.shape[:-1], self.d_out)

    def decoder_rows(self, indices: Int[Tensor, " k"], write: Site | None = None) -> Float[Tensor, "k d_out"]:
        """Rows of `w_dec`."""
        self.check_write(write)
        return widened(self._matrix("w_dec")[indices])

    def bias(self, write: Site | None = None) -> Float[Tensor, " d_out"]:
        """`b_dec`."""
        self.check_write(write)
        return widened(self.b_dec.detach())

    def skip(self, write: Site | None = None) -> Float[Tensor, "d_in d_out"] | None:
        """`w_skip`, where there is one."""
        self.check_write(write)
        return None if self.w_skip is None else self.w_skip.to(wide(self.w_skip.dtype))

    def extra_repr(self) -> str:
        """What it reads and writes, and its size."""
        return f"{self.reads[0]} -> {self.writes[0]}, {self.d_in} -> {self.d_latent} -> {self.d_out}"
