"""Recording: activations of a model at chosen sites, kept in memory, one row per token.

Small corpora only; a store on disk takes the same place for large ones. This module must not know what the
activations are for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.errors import BadInput
from glassworks.harvest.documents import batches, pad
from glassworks.models import Model
from glassworks.sites import Site

BATCH_TOKENS = 4096


@final
@dataclass(frozen=True, eq=False)
class Recording:
    """Activations of some tokens.

    Attributes:
        tokens: the token ids.
        documents: which document each token comes from.
        positions: its place there; the first token has 0.
        values: site name -> activations.
    """

    tokens: Int[Tensor, " row"]
    documents: Int[Tensor, " row"]
    positions: Int[Tensor, " row"]
    values: dict[str, Float[Tensor, "row d"]]


@torch.no_grad()
def record(
    model: Model, documents: Sequence[Sequence[int]], sites: Sequence[Site], first: int = 0, batch: int = BATCH_TOKENS
) -> Recording:
    """Run documents through a model and keep what is at some sites.

    Args:
        model: the model.
        documents: token ids each.
        sites: where to record.
        first: skip the positions before this one; 1 leaves out a beginning-of-text token, whose activations
            are the same constant in every document.
        batch: tokens in one forward pass.

    Returns:
        Rows in the order of the documents and their tokens.

    Raises:
        BadInput: no document is longer than `first`.
    """
    kept = [number for number, each in enumerate(documents) if len(each) > first]
    if not kept:
        raise BadInput(f"No document has more than {first} tokens; there is nothing to record.")
    starts = torch.tensor([0, *(len(documents[number]) - first for number in kept)]).cumsum(0)
    values: dict[str, Tensor] = {}
    for group in batches([documents[number] for number in kept], batch):
        ids, real = pad([documents[kept[each]] for each in group])
        real[:, :first] = False
        rows = (starts[torch.tensor(group)][:, None] + torch.arange(ids.shape[1]) - first)[real]
        for name, value in model.capture(ids, sites, batch_size=len(ids)).items():
            found = value.float().cpu()[real]
            values.setdefault(name, found.new_empty(int(starts[-1]), *found.shape[1:]))[rows] = found
    return _table([documents[number] for number in kept], kept, first, values)


def _table(documents: list[Sequence[int]], numbers: list[int], first: int, values: dict[str, Tensor]) -> Recording:
    lengths = torch.tensor([len(each) - first for each in documents])
    return Recording(
        tokens=torch.tensor([token for each in documents for token in each[first:]]),
        documents=torch.tensor(numbers).repeat_interleave(lengths),
        positions=torch.cat([torch.arange(first, len(each)) for each in documents]),
        values=values,
    )
