"""Which tokens go with a latent: its own token, what was said before, what comes later.

A latent at the end of a sentence fires on an empty word ("is") because of what was said earlier, so the token it
fires on says little. Three means per latent and token tell more: its activation on the token, the highest at or
after the token, and the highest before it. All are means per occurrence of the token, so that a rare specific
token is not outweighed by frequent ones. Needs vocabulary x latents numbers of memory, three times.
"""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

DOUBT = 2.0
"""Occurrences without activation that are added to every token, so that one chance occurrence proves nothing."""


@final
class TokenMeans:
    """Sums over batches of documents.

    Args:
        vocabulary: how many token ids there are.
        d_latent: how many latents.
    """

    def __init__(self, vocabulary: int, d_latent: int) -> None:
        self.counts = torch.zeros(vocabulary)
        self.on = torch.zeros(vocabulary, d_latent)
        self.since = torch.zeros(vocabulary, d_latent)
        self.until = torch.zeros(vocabulary, d_latent)

    def add(self, ids: Int[Tensor, "document token"], dense: Float[Tensor, "document token d_latent"]) -> None:
        """Take in documents of one length.

        Args:
            ids: their tokens.
            dense: activations.
        """
        self.counts += torch.bincount(ids.flatten(), minlength=len(self.counts))
        self.on.index_add_(0, ids.flatten(), dense.flatten(0, 1))
        highest = torch.zeros_like(dense[:, 0])
        for place in range(ids.shape[1]):
            self.until.index_add_(0, ids[:, place], highest)
            highest = torch.maximum(highest, dense[:, place])
        highest = torch.zeros_like(highest)
        for place in reversed(range(ids.shape[1])):
            highest = torch.maximum(highest, dense[:, place])
            self.since.index_add_(0, ids[:, place], highest)

    def ranked(
        self, sums: Float[Tensor, "vocabulary d_latent"], most: int, least: float = 0.0
    ) -> tuple[Int[Tensor, "d_latent top"], Float[Tensor, "d_latent top"]]:
        """The tokens with the largest means.

        Args:
            sums: `on`, `since` or `until`.
            most: how many.
            least: leave out tokens below this share of the best one.

        Returns:
            Ids (-1 where there are fewer) and means of each latent.
        """
        means = sums / (self.counts + DOUBT)[:, None]
        best = means.topk(min(most, len(means)), dim=0)
        values, ids = best.values.T.contiguous(), best.indices.T
        kept = (values > 0) & (values >= least * values[:, :1])
        return ids.where(kept, torch.full_like(ids, -1)), values.where(kept, torch.zeros_like(values))
