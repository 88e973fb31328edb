"""Coders: sparse dictionaries that read activations at some sites and write them at others.

A coder knows the names of its sites and no model. Weights may be stored in half precision; every product is
accumulated in float32 or in the input's type where that is wider.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from glassworks.coders.activations import Activation
from glassworks.coders.latents import Latents
from glassworks.errors import BadInput, NotFound
from glassworks.sites import Site


class Coder(nn.Module, ABC):
    """Encodes activations at its read site into sparse latents, and decodes them at its write sites.

    Attributes:
        reads: the sites whose activations it encodes.
        writes: the sites whose activations it reconstructs.
        d_latent: how many latents it has.
    """

    def __init__(self, reads: Sequence[Site], writes: Sequence[Site], d_latent: int, activation: Activation) -> None:
        super().__init__()
        self.reads, self.writes, self.d_latent = tuple(reads), tuple(writes), d_latent
        self.activation = activation
        self._id = self.reads[0].name

    @property
    def id(self) -> str:
        """The coder's name in its scope: its read site, `mlp_in.2`, unless the scope has several there."""
        return self._id

    def rename(self, name: str) -> None:
        """Change the coder's `id`."""
        self._id = name

    @property
    def parts(self) -> "tuple[Coder, ...]":
        """Coders of one read site each whose sum it is; itself where it is none."""
        return (self,)

    def load(self) -> None:
        """Read into memory what still lies in files."""

    @property
    def activation(self) -> Activation:
        """Which latents are on, as a value: `JumpReLU(threshold)`, `TopK(k)`, `ReLU()`."""
        return replace(cast(Any, self._activation), **self.activation_tensors())

    @activation.setter
    def activation(self, value: Activation) -> None:
        for name, tensor in value.tensors().items():
            if tensor.shape != (self.d_latent,):
                raise BadInput(f"The {name} has shape {tuple(tensor.shape)}; the coder needs ({self.d_latent},).")
            self.register_buffer(name, tensor.detach())
        self._activation = value

    def activation_tensors(self) -> dict[str, Tensor]:
        """The activation's tensors where the coder now lies (they move with it)."""
        return {name: self.get_buffer(name) for name in self._activation.tensors()}

    @abstractmethod
    def preactivations(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_latent"]:
        """What each latent reads from the input, before the choice of the active ones."""

    @abstractmethod
    def decode(self, latents: Latents, write: Site | None = None) -> Float[Tensor, "*token d_out"]:
        """Turn latents into activations at a write site (the first by default), bias included, skip not."""

    @abstractmethod
    def encoder_rows(self, indices: Int[Tensor, " k"]) -> Float[Tensor, "k d_in"]:
        """The directions that latents read, by index."""

    @abstractmethod
    def encoder_bias(self, indices: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
        """The biases of latents' pre-activations, by index."""

    @abstractmethod
    def decoder_rows(self, indices: Int[Tensor, " k"], write: Site | None = None) -> Float[Tensor, "k d_out"]:
        """The directions that latents write at a write site (the first by default), by index."""

    @abstractmethod
    def bias(self, write: Site | None = None) -> Float[Tensor, " d_out"]:
        """What is written at a write site (the first by default) with all latents silent and no skip."""

    @abstractmethod
    def skip(self, write: Site | None = None) -> Float[Tensor, "d_in d_out"] | None:
        """The linear path around the latents, applied as `x @ skip`; None where there is none."""

    def encode(self, x: Float[Tensor, "*token d_in"]) -> Latents:
        """Turn activations at the read site into sparse latents; gradients flow through the values."""
        preactivations = self.preactivations(x)
        return Latents.from_dense(preactivations, self.activation.active(preactivations))

    def forward(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_out"]:
        """Reconstruct the activations at the write site: decoded latents plus the skip path."""
        return self.reconstruct(self.encode(x), x)

    def reconstruct(
        self, latents: Latents, x: Float[Tensor, "*token d_in"], write: Site | None = None
    ) -> Float[Tensor, "*token d_out"]:
        """What the coder writes for some latents: decoded, with bias, plus the skip path of its input.

        Args:
            latents: usually `encode(x)`, or changed from it.
            x: the activations at the read site.
            write: the write site, the first by default.
        """
        decoded, skip = self.decode(latents, write), self.skip(write)
        return decoded if skip is None else decoded + x.to(decoded.dtype) @ skip.to(decoded.dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id}: {self.extra_repr()}, {self.parts[0]._activation.kind})"

    def _repr_html_(self) -> str:
        return f"<code>{escape(repr(self))}</code>"

    def check_write(self, write: Site | None) -> Site:
        """The write site meant, the first by default; NotFound where the coder does not write there."""
        if write is None:
            return self.writes[0]
        if write not in self.writes:
            allowed = ", ".join(site.name for site in self.writes)
            raise NotFound(f"The coder {self.id} does not write at {write}; it writes at {allowed}.")
        return write
