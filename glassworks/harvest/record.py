"""Recording: activations of a model at chosen sites, kept in memory, one row per token.

Small corpora only; a store takes the same place for large ones. This module must not know what the activations are for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.errors import BadInput
from glassworks.harvest.activations import Activations, Statistics, moments
from glassworks.harvest.documents import batches, pad
from glassworks.models import Model
from glassworks.sites import Site

BATCH_TOKENS = 4096
HEADS = {"attn_heads": "n_heads", "q": "n_heads", "k": "n_kv_heads", "v": "n_kv_heads"}
"""Kinds of sites where heads lie side by side -> what a model calls their number."""


@final
@dataclass(frozen=True, eq=False)
class Recording(Activations):
    """Activations of some tokens.

    Attributes:
        tokens: the token ids.
        documents: which document each token comes from.
        positions: its place there; the first token has 0.
        values: site name -> activations.
        heads: site name -> how many heads lie side by side there, where there are any.
    """

    tokens: Int[Tensor, " row"]
    documents: Int[Tensor, " row"]
    positions: Int[Tensor, " row"]
    values: dict[str, Float[Tensor, "row d"]]
    heads: Mapping[str, int] = field(default_factory=dict)

    @property
    def widths(self) -> dict[str, int]:
        """Site -> width of its activations."""
        return {site: values.shape[1] for site, values in self.values.items()}

    @property
    def following(self) -> Int[Tensor, " row"]:
        """The token after each token in its document, -1 where it is the last."""
        following = self.tokens.roll(-1)
        following[self.documents != self.documents.roll(-1)] = -1
        following[-1] = -1
        return following

    def statistics(self, site: str) -> Statistics:
        """Moments of a site, over all rows."""
        return moments(self.read(site))

    def _whole(self, site: str, rows: slice | Tensor) -> Tensor:
        return self.values[site][rows].float()


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
    numbers = [number for number, each in enumerate(documents) if len(each) > first]
    if not numbers:
        raise BadInput(f"No document has more than {first} tokens; there is nothing to record.")
    kept = [documents[number] for number in numbers]
    lengths = torch.tensor([len(each) - first for each in kept])
    starts = lengths.cumsum(0) - lengths
    values: dict[str, Tensor] = {}
    for group, found in forward(model, kept, sites, batch):
        real = torch.arange(max(len(kept[each]) for each in group)) < lengths[group][:, None] + first
        real[:, :first] = False
        rows = (starts[group][:, None] + torch.arange(real.shape[1]) - first)[real]
        for site, each in found.items():
            part = each.float().cpu()[real]
            values.setdefault(site, part.new_empty(int(lengths.sum()), part.shape[1]))[rows] = part
    return Recording(
        tokens=torch.tensor([token for each in kept for token in each[first:]]),
        documents=torch.tensor(numbers).repeat_interleave(lengths),
        positions=torch.cat([torch.arange(first, len(each)) for each in kept]),
        values=values,
        heads=heads(model, sites),
    )


def forward(
    model: Model, documents: Sequence[Sequence[int]], sites: Sequence[Site], batch: int
) -> Iterator[tuple[list[int], dict[str, Float[Tensor, "document token d"]]]]:
    """Run documents through a model, those of similar length together, as far as the last site needs it.

    Args:
        model: the model.
        documents: token ids each.
        sites: what to keep; heads are laid side by side.
        batch: tokens in one forward pass.

    Yields:
        Numbers of documents, and site name -> what was there, in the model's numbers and on its device; beyond a
        document's end it means nothing.
    """
    for group in batches(documents, batch):
        ids, _ = pad([documents[each] for each in group])
        found = model.capture(ids, sites, batch_size=len(ids))
        yield group, {site: value.flatten(2) for site, value in found.items()}


def heads(model: Model, sites: Sequence[Site]) -> dict[str, int]:
    """How many heads lie side by side at each of those sites that have heads."""
    return {site.name: int(getattr(model, HEADS[site.kind])) for site in sites if site.kind in HEADS}
