"""Coders: sparse dictionaries that read activations at one site and write them at another.

A coder knows the names of its sites and no model. Weights may be stored in half precision; every product is
accumulated in float32 or in the input's type where that is wider.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

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

    @property
    def id(self) -> str:
        """The coder's name in its scope: its read site, `mlp_in.2`."""
        return self.reads[0].name

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
        """Reconstruct the activations at the (first) write site: decoded latents plus the skip path."""
        reconstruction, skip = self.decode(self.encode(x)), self.skip()
        return (
            reconstruction
            if skip is None
            else reconstruction + x.to(reconstruction.dtype) @ skip.to(reconstruction.dtype)
        )

    def check_write(self, write: Site | None) -> Site:
        """The write site meant, the first by default; NotFound where the coder does not write there."""
        if write is None:
            return self.writes[0]
        if write not in self.writes:
            allowed = ", ".join(site.name for site in self.writes)
            raise NotFound(f"The coder {self.id} does not write at {write}; it writes at {allowed}.")
        return write


@final
class Transcoder(Coder):
    """One read site, one write site: `y = activation(w_enc x + b_enc) @ w_dec + b_dec (+ x @ w_skip)`.

    A transcoder reads an MLP's input and writes its output (Dunefsky et al. 2024, arXiv 2406.11944; with a skip
    path: Paulo et al. 2025, arXiv 2501.18823). With the same site at both ends it is a sparse autoencoder.

    Args:
        read: the site that it reads.
        write: the site that it writes.
        activation: which latents are on.
        weights: `w_enc (d_latent, d_in)`, `b_enc (d_latent)`, `w_dec (d_latent, d_out)`, `b_dec (d_out)` and
            perhaps `w_skip (d_in, d_out)`.

    Raises:
        BadInput: a weight is missing, unknown, or of a shape that does not fit the others.
    """

    def __init__(self, read: Site, write: Site, activation: Activation, weights: dict[str, Tensor]) -> None:
        _check_weights(weights)
        super().__init__([read], [write], weights["w_enc"].shape[0], activation)
        self.w_enc, self.b_enc = nn.Parameter(weights["w_enc"]), nn.Parameter(weights["b_enc"])
        self.w_dec, self.b_dec = nn.Parameter(weights["w_dec"]), nn.Parameter(weights["b_dec"])
        self.w_skip = nn.Parameter(weights["w_skip"]) if "w_skip" in weights else None

    @property
    def d_in(self) -> int:
        """Width of the read site."""
        return self.w_enc.shape[1]

    @property
    def d_out(self) -> int:
        """Width of the write site."""
        return self.w_dec.shape[1]

    def weights(self) -> dict[str, Tensor]:
        """The weights by name, detached, as the constructor takes them."""
        return {name: value.detach() for name, value in self.named_parameters()}

    def preactivations(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_latent"]:
        """`x @ w_enc.T + b_enc`, in float32 or wider."""
        if x.shape[-1] != self.d_in:
            raise BadInput(f"The coder {self.id} reads width {self.d_in}; the activations have width {x.shape[-1]}.")
        kind = _wide(x.dtype)
        return functional.linear(x.to(kind), self.w_enc.to(kind), self.b_enc.to(kind))

    def decode(self, latents: Latents, write: Site | None = None) -> Float[Tensor, "*token d_out"]:
        """`activations @ w_dec + b_dec`, touching the rows of active latents only."""
        self.check_write(write)
        kind = _wide(latents.values.dtype)
        starts = latents.counts.cumsum(0) - latents.counts
        indices, rows = latents.indices, self.w_dec
        if rows.dtype != kind:  # widen the rows in use, not the whole matrix
            used, indices = latents.indices.unique(return_inverse=True)
            rows = rows[used].to(kind)
        weights = latents.values.to(kind)
        decoded = functional.embedding_bag(indices, rows, starts, mode="sum", per_sample_weights=weights)
        return (decoded + self.b_dec.to(kind)).reshape(*latents.shape[:-1], self.d_out)

    def encoder_rows(self, indices: Int[Tensor, " k"]) -> Float[Tensor, "k d_in"]:
        """Rows of `w_enc`."""
        return _widened(self.w_enc.detach()[indices])

    def encoder_bias(self, indices: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Entries of `b_enc`."""
        return _widened(self.b_enc.detach()[indices])

    def decoder_rows(self, indices: Int[Tensor, " k"], write: Site | None = None) -> Float[Tensor, "k d_out"]:
        """Rows of `w_dec`."""
        self.check_write(write)
        return _widened(self.w_dec.detach()[indices])

    def bias(self, write: Site | None = None) -> Float[Tensor, " d_out"]:
        """`b_dec`."""
        self.check_write(write)
        return _widened(self.b_dec.detach())

    def skip(self, write: Site | None = None) -> Float[Tensor, "d_in d_out"] | None:
        """`w_skip`, where there is one."""
        self.check_write(write)
        return None if self.w_skip is None else self.w_skip.to(_wide(self.w_skip.dtype))

    def extra_repr(self) -> str:
        """What it reads and writes, and its size."""
        return f"{self.reads[0]} -> {self.writes[0]}, {self.d_in} -> {self.d_latent} -> {self.d_out}"


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _widened(value: Tensor) -> Tensor:
    return value.to(_wide(value.dtype))


def _check_weights(weights: dict[str, Tensor]) -> None:
    needed = {"w_enc", "b_enc", "w_dec", "b_dec"}
    if not needed <= set(weights) <= needed | {"w_skip"}:
        raise BadInput(
            f"A transcoder has the weights w_enc, b_enc, w_dec, b_dec and perhaps w_skip; these are {sorted(weights)}."
        )
    if weights["w_enc"].ndim != 2 or weights["w_dec"].ndim != 2:
        raise BadInput("A transcoder's w_enc and w_dec must be matrices.")
    (d_latent, d_in), d_out = weights["w_enc"].shape, weights["w_dec"].shape[1]
    right = {"w_enc": (d_latent, d_in), "b_enc": (d_latent,), "w_dec": (d_latent, d_out), "b_dec": (d_out,)}
    for name, shape in (right | {"w_skip": (d_in, d_out)}).items():
        if name in weights and tuple(weights[name].shape) != shape:
            raise BadInput(
                f"The weight {name} has shape {tuple(weights[name].shape)}; with the others it must be {shape}."
            )
