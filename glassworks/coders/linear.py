"""Coders whose latents read their input by one matrix: what transcoders and crosscoders share.

The encoder streams: a few thousand latents at a time, so that neither the matrix, where it lies in a file, nor the
dense pre-activations of a wide coder need to be in memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from glassworks.coders.activations import Activation
from glassworks.coders.coder import Coder
from glassworks.coders.latents import Latents
from glassworks.coders.weights import Matrix, Stored, resident
from glassworks.errors import BadInput
from glassworks.sites import Site

BLOCK = 1 << 21
"""Dense pre-activations held at a time: 8 MiB in float32, which is chosen from while it is still in the cache."""
LARGE = 32
"""So many blocks are held at a time on an accelerator, and where the choice is made among all latents of a token."""
FEWEST = 1024
"""Latents encoded at a time at the least, so that the products stay large."""
BY_LATENT = ("w_enc", "b_enc", "w_dec")
"""Weights with one row per latent."""


class LinearCoder(Coder, ABC):
    """A coder with `preactivations(x) = x @ w_enc.T + b_enc`; its matrices are in memory or in a file.

    Args:
        reads: the sites that it encodes.
        writes: the sites that it reconstructs.
        activation: which latents are on.
        weights: by name; `w_enc (d_latent, d_in)` and `b_enc (d_latent)` among them.
        prefixes: widths of the nested dictionaries that a Matryoshka coder was trained as, ascending.
    """

    w_enc: Any  # a parameter, or Stored
    b_enc: nn.Parameter

    def __init__(
        self,
        reads: Sequence[Site],
        writes: Sequence[Site],
        activation: Activation,
        weights: Mapping[str, Matrix],
        prefixes: Sequence[int] = (),
    ) -> None:
        self.check(reads, writes, weights)
        super().__init__(reads, writes, weights["w_enc"].shape[0], activation)
        if list(prefixes) != sorted(set(prefixes)) or any(not 0 < each <= self.d_latent for each in prefixes):
            raise BadInput(f"The prefixes {list(prefixes)} must ascend within the coder's {self.d_latent} latents.")
        self.prefixes, self._names = tuple(prefixes), tuple(weights)
        for name, weight in weights.items():
            self._hold(name, weight)

    @staticmethod
    @abstractmethod
    def check(reads: Sequence[Site], writes: Sequence[Site], weights: Mapping[str, Matrix]) -> None:
        """Raise BadInput where a weight is missing, unknown, or of a shape that does not fit the others."""

    @abstractmethod
    def like(
        self, activation: Activation, weights: Mapping[str, Matrix], prefixes: Sequence[int] = ()
    ) -> "LinearCoder":
        """A coder of the same kind and sites with other weights."""

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.w_enc.shape[1]

    def matrices(self) -> dict[str, Matrix]:
        """The weights by name, detached, in memory or in a file, as the constructor takes them."""
        held = {name: getattr(self, _attribute(name)) for name in self._names}
        return {name: value if isinstance(value, Stored) else value.detach() for name, value in held.items()}

    def weights(self) -> dict[str, Tensor]:
        """The weights by name, detached, all of them in memory."""
        return {name: resident(value) for name, value in self.matrices().items()}

    def load(self) -> None:
        """Read into memory what still lies in files."""
        for name, value in self.matrices().items():
            if isinstance(value, Stored):
                self._hold(name, value.load())
                getattr(self, _attribute(name)).requires_grad_(False)

    def prefix(self, width: int) -> Any:  # the same class
        """The coder of the first latents only, exact where an activation looks at one latent at a time.

        For the others the choice is made among all: encode, then take `latents.prefix(width)`.

        Raises:
            BadInput: a width that the coder does not have.
            Unsupported: the activation chooses among all latents.
        """
        if not 0 < width <= self.d_latent:
            raise BadInput(f"The coder {self.id} has no prefix of {width} latents; it has {self.d_latent} latents.")
        cut = {
            name: value.narrow(0, 0, width) if name.startswith(BY_LATENT) else value
            for name, value in self.matrices().items()
        }
        kept = self.activation.narrow(0, width)
        found = self.like(kept, cut, [each for each in self.prefixes if each <= width])
        found.rename(self.id)
        return found.requires_grad_(False)

    def preactivations(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_latent"]:
        """`x @ w_enc.T + b_enc`, in float32 or wider."""
        blocks = [self._product(x, start, length) for start, length in self._blocks(x)]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-1)

    def encode(self, x: Float[Tensor, "*token d_in"]) -> Latents:
        """Turn activations into sparse latents, a block at a time; gradients flow through the values."""
        activation = self.activation
        if activation.span == "batch":
            return super().encode(x)
        shape = (*x.shape[:-1], self.d_latent)
        flat = x.reshape(-1, x.shape[-1])
        if activation.span == "token":
            return Latents.in_turn([super(LinearCoder, self).encode(rows) for rows in flat.split(self._rows())], shape)
        pieces = []
        for start, length in self._blocks(flat, small=True):
            block = self._product(flat, start, length)
            pieces.append(Latents.from_dense(block, activation.narrow(start, length).active(block)))
        whole = Latents.side_by_side(pieces)
        return Latents(whole.positions, whole.indices, whole.values, shape)

    def encoder_rows(self, indices: Int[Tensor, " k"]) -> Float[Tensor, "k d_in"]:
        """Rows of `w_enc`."""
        return widened(self._matrix("w_enc")[indices])

    def encoder_bias(self, indices: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Entries of `b_enc`."""
        return widened(self.b_enc.detach()[indices])

    def _hold(self, name: str, weight: Matrix) -> None:
        setattr(self, _attribute(name), weight if isinstance(weight, Stored) else nn.Parameter(weight))

    def _matrix(self, name: str) -> Matrix:
        held = getattr(self, _attribute(name))
        return held if isinstance(held, Stored) else held.detach()

    def _rows(self) -> int:
        return max(1, LARGE * BLOCK // self.d_latent)

    def _blocks(self, x: Tensor, small: bool = False) -> Iterator[tuple[int, int]]:
        """Runs of latents: all at once where the matrix is at hand and the result may be large."""
        at_hand = not isinstance(self.w_enc, Stored) and self.w_enc.dtype == wide(x.dtype)
        tokens = max(1, x.numel() // max(1, x.shape[-1]))
        block = BLOCK if x.device.type == "cpu" else LARGE * BLOCK
        step = self.d_latent if at_hand and not small else max(FEWEST, block // max(tokens, self.d_in))
        return ((start, min(step, self.d_latent - start)) for start in range(0, self.d_latent, step))

    def _product(self, x: Tensor, start: int, length: int) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise BadInput(f"The coder {self.id} reads width {self.d_in}; the activations have width {x.shape[-1]}.")
        kind = wide(x.dtype)
        whole = length == self.d_latent and not isinstance(self.w_enc, Stored)  # a slice would slow the gradient
        rows = cast(Tensor, self.w_enc if whole else self.w_enc[start : start + length])
        bias = self.b_enc[start : start + length]
        return functional.linear(x.to(kind), rows.to(device=x.device, dtype=kind), bias.to(kind))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which products are accumulated: float32, or wider where the numbers are."""
    return torch.promote_types(dtype, torch.float32)


def widened(value: Tensor) -> Tensor:
    """The same numbers in float32 or wider."""
    return value.to(wide(value.dtype))


def check_shapes(weights: Mapping[str, Matrix], right: Mapping[str, tuple[int, ...]]) -> None:
    """Raise BadInput where a weight's shape does not fit the others'."""
    for name, weight in weights.items():
        if tuple(weight.shape) != right[name]:
            raise BadInput(
                f"The weight {name} has shape {tuple(weight.shape)}; with the others it must be {right[name]}."
            )


def _attribute(name: str) -> str:
    return name.replace(".", "/")  # torch allows no dot in a parameter's name
