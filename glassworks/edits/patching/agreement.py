"""How well an approximation agrees with what it approximates. This module must not know where numbers come from."""

from dataclasses import asdict, dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.errors import BadInput


@final
@dataclass(frozen=True)
class Agreement:
    """How two lists of effects agree.

    Attributes:
        pearson: their correlation; nan where one of them is constant.
        overlap: share of the k largest (either sign) of the one that are among those of the other.
        chance: the overlap that random lists would have, k / count.
        k: how many are compared.
        count: how many effects there are.
    """

    pearson: float
    overlap: float
    chance: float
    k: int
    count: int

    def __str__(self) -> str:
        top = f"{self.overlap:.0%} of the {self.k} largest are the same (chance {self.chance:.0%})"
        return f"r {self.pearson:.3f} over {self.count}; {top}"

    def plain(self) -> dict[str, float | int | None]:
        """As JSON values; an unknown correlation is None."""
        return asdict(self) | {"pearson": None if self.pearson != self.pearson else self.pearson}


def agreement(exact: Float[Tensor, " n"], estimate: Float[Tensor, " n"], k: int = 10) -> Agreement:
    """Compare effects with their estimates.

    Args:
        exact: measured effects, 0 for none.
        estimate: of the same, in the same order.
        k: how many of the largest are compared; at most half of them, so that chance stays low.

    Raises:
        BadInput: fewer than two effects.
    """
    if len(exact) < 2:
        raise BadInput(f"Agreement needs two effects or more, each with its estimate; got {len(exact)}.")
    k, pair = max(1, min(k, len(exact) // 2)), torch.stack([exact, estimate]).double()
    centred = pair - pair.mean(1, keepdim=True)
    norms = centred.norm(dim=1)
    pearson = float(centred[0] @ centred[1] / (norms[0] * norms[1]))
    best = [set(each.abs().topk(k).indices.tolist()) for each in pair]
    return Agreement(pearson, len(best[0] & best[1]) / k, k / len(exact), k, len(exact))
