"""Coders whose input is scaled token by token, which no folding can put into weights."""

from collections.abc import Callable
from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from glassworks.coders.coder import Coder
from glassworks.coders.latents import Latents
from glassworks.coders.transcoder import Transcoder
from glassworks.errors import Unsupported, nearest
from glassworks.sites import Site

EPSILON = 1e-5


def _layer_norm(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(-1, keepdim=True), x.std(-1, keepdim=True)


def _constant_norm(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_zeros(*x.shape[:-1], 1), x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5


SCALINGS: dict[str, tuple[Callable[[Tensor], tuple[Tensor, Tensor]], float]] = {
    "layer_norm": (_layer_norm, EPSILON),
    "constant_norm": (_constant_norm, 0.0),
}
"""Name -> centre and length of each token, and what is added to the length before dividing by it."""


@final
class PerToken(Coder):
    """A transcoder of `(x - centre) / length`, whose output is multiplied by the token's length and shifted back.

    With `layer_norm` centre and length are the mean and the (unbiased) standard deviation of the token's components,
    with `constant_norm` 0 and their root mean square: SAELens' `normalize_activations`. A latent has no direction of
    its own in raw units, so rows, biases and decoding without the input do not exist.

    Args:
        inner: reads and writes scaled activations.
        scaling: a name of `SCALINGS`.

    Raises:
        Unsupported: another scaling.
    """

    def __init__(self, inner: Transcoder, scaling: str) -> None:
        if scaling not in SCALINGS:
            raise Unsupported(f"There is no per-token scaling {scaling!r}; {nearest(scaling, SCALINGS)}.")
        super().__init__(inner.reads, inner.writes, inner.d_latent, inner.activation)
        self.inner, self.scaling = inner, scaling

    def load(self) -> None:
        """Read into memory what still lies in files."""
        self.inner.load()

    def preactivations(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_latent"]:
        """What each latent reads from the scaled input."""
        return self.inner.preactivations(self._scaled(x)[0])

    def encode(self, x: Float[Tensor, "*token d_in"]) -> Latents:
        """Turn raw activations into sparse latents, in units of scaled ones."""
        return self.inner.encode(self._scaled(x)[0])

    def reconstruct(
        self, latents: Latents, x: Float[Tensor, "*token d_in"], write: Site | None = None
    ) -> Float[Tensor, "*token d_out"]:
        """What is written for some latents, in raw units: scaled and shifted as the input's tokens were."""
        scaled, centre, length = self._scaled(x)
        return self.inner.reconstruct(latents, scaled, write) * length + centre

    def decode(self, latents: Latents, write: Site | None = None) -> Float[Tensor, "*token d_out"]:
        """Unsupported: it takes the input's length."""
        raise self._refusal()

    def encoder_rows(self, indices: Int[Tensor, " k"]) -> Float[Tensor, "k d_in"]:
        """Unsupported: see the class."""
        raise self._refusal()

    def encoder_bias(self, indices: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Unsupported: see the class."""
        raise self._refusal()

    def decoder_rows(self, indices: Int[Tensor, " k"], write: Site | None = None) -> Float[Tensor, "k d_out"]:
        """Unsupported: see the class."""
        raise self._refusal()

    def bias(self, write: Site | None = None) -> Float[Tensor, " d_out"]:
        """Unsupported: see the class."""
        raise self._refusal()

    def skip(self, write: Site | None = None) -> Float[Tensor, "d_in d_out"] | None:
        """Unsupported: see the class."""
        raise self._refusal()

    def extra_repr(self) -> str:
        """What it reads and writes, its size, and how tokens are scaled."""
        return f"{self.inner.extra_repr()}, {self.scaling}"

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        measure, epsilon = SCALINGS[self.scaling]
        wide = x.float() if x.element_size() < 4 else x
        centre, length = measure(wide)
        return (wide - centre) / (length + epsilon), centre, length

    def _refusal(self) -> Unsupported:
        return Unsupported(
            f"The coder {self.id} scales every token by its own length ({self.scaling}), so its latents have no fixed "
            "direction; it can encode and reconstruct, coder(x), but not trace, edit or decode without the input."
        )
