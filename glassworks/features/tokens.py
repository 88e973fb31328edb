"""Which tokens go with a latent: its own token, what was said before, what comes later.

A latent at the end of a sentence fires on an empty word ("is") because of what was said earlier, so the token it
fires on says little. Three means per latent and token tell more: its activation on the token, the highest at or
after the token, and the highest before it. All are means per occurrence of the token, so that a rare specific
token is not outweighed by frequent ones. Needs vocabulary x latents numbers of memory, three times.
"""

from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

DOUBT = 2.0
"""Occurrences without activation that are added to every token, so that one chance occurrence proves nothing."""


LIFT = 3.0
"""A token follows a latent if its share there is so many times its usual share."""

TELLING = (10.0, 0.03)
"""Least lift, and least part of a latent's activity, of a token that says what the latent is about."""


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

    def own(self, most: int) -> tuple[Int[Tensor, "d_latent top"], Float[Tensor, "d_latent top"]]:
        """The tokens that each latent fires on, and its mean activation on them.

        Ranked by the mean times the share of all its activation that the token accounts for: the mean alone lets
        rare tokens win by chance, the share alone frequent words.
        """
        ids, kept = _best(self._means(self.on) * self.on, most, 0.0)
        means = self._means(self.on).T.gather(1, ids.clamp_min(0))
        return ids, means.masked_fill(~kept, 0.0)

    def context(self, most: int, least: float) -> Int[Tensor, "d_latent top"]:
        """The tokens that stand at or before each latent's activity much more than before that of the others.

        Ranked like `following`; tokens that are `TELLING` (ten times the usual share, in a thirtieth of its texts)
        come first: of "capital", which comes before many latents, and a name, which comes before one, the name.
        """
        lift = _lift(self.since)
        present = self.since / self.since.amax(0).clamp_min(1e-9)
        score = (present * lift.log()).masked_fill(lift <= LIFT, 0.0)
        telling = (lift > TELLING[0]) & (present > TELLING[1])
        return _best(score + 1e3 * telling, most, least)[0]

    def following(self, most: int, least: float) -> Int[Tensor, "d_latent top"]:
        """The tokens that come after each latent's activity much more than after that of the others.

        Ranked by share * log(lift), lift being share / usual share, a token's part in how far the two distributions are
        apart; usual is what follows all latents together: what follows everything (a full stop) says nothing.
        """
        lift = _lift(self.until)
        return _best((self.until * lift.log()).masked_fill(lift <= LIFT, 0.0), most, least)[0]

    def _means(self, sums: Float[Tensor, "vocabulary d_latent"]) -> Float[Tensor, "vocabulary d_latent"]:
        return sums / (self.counts + DOUBT)[:, None]


def _lift(sums: Float[Tensor, "vocabulary d_latent"]) -> Float[Tensor, "vocabulary d_latent"]:
    """How many times its usual share (that of all latents together) each token has of each latent."""
    share = sums / sums.sum(0).clamp_min(1e-9)
    usual = sums.sum(1, keepdim=True) / sums.sum().clamp_min(1e-9)
    return (share / usual.clamp_min(1e-9)).clamp_min(1e-9)


def _best(
    score: Float[Tensor, "vocabulary d_latent"], most: int, least: float
) -> tuple[Int[Tensor, "d_latent top"], Bool[Tensor, "d_latent top"]]:
    """Ids of the highest scores above 0 and above a share of the best one; -1 elsewhere, and where they are."""
    best = score.topk(min(most, len(score)), dim=0)
    kept = ((best.values > 0) & (best.values >= least * best.values[:1])).T
    return best.indices.T.masked_fill(~kept, -1).contiguous(), kept
