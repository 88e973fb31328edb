"""The operations of the sparse engine.

A matrix (bag, row) with few entries is given by their places and values. Bags are tokens and rows latents, or the
other way round. All code gives the same bits when it runs again. Nothing here knows gradients.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, final

from jaxtyping import Float, Int
from torch import Tensor


@final
class Places(NamedTuple):
    """Where the entries of a sparse matrix are.

    Attributes:
        starts: where the entries of each bag begin, and the end of the last.
        indices: the row of each entry.
    """

    starts: Int[Tensor, " starts"]
    indices: Int[Tensor, " entry"]


class Kernels(ABC):
    """Chooses entries of pre-activations, and multiplies with them.

    Attributes:
        name: what `GLASSWORKS_KERNELS` calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def largest(self, pre: Float[Tensor, "token latent"], k: int) -> Int[Tensor, "token k"]:
        """The k largest of each token, ascending by latent; of equal ones any, but always the same."""

    @abstractmethod
    def above(
        self, pre: Float[Tensor, "token latent"], floor: Float[Tensor, " latent"]
    ) -> tuple[Int[Tensor, " token"], Int[Tensor, " entry"]]:
        """How many of each token are above the floor of their latent, and which, ascending."""

    @abstractmethod
    def turn(self, indices: Int[Tensor, " entry"], rows: int) -> tuple[Int[Tensor, " entry"], Int[Tensor, " starts"]]:
        """The order of entries by row, stable, and where each row starts in it."""

    @abstractmethod
    def total(self, at: Places, values: Tensor, rows: Float[Tensor, "row d"], out: Float[Tensor, "bag d"]) -> None:
        """Add to each bag of `out` its rows, weighted by the values."""

    @abstractmethod
    def dots(self, at: Places, bags: Float[Tensor, "bag d"], rows: Float[Tensor, "row d"]) -> Float[Tensor, " entry"]:
        """The product of each entry's bag and row."""
