"""Loss terms: what an attempt of a learner costs, one plain function each.

A term knows an attempt, nothing of the loop, and gives one number to minimise.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from glassworks.train.learner import Attempt

Term = Callable[[Attempt], Float[Tensor, ""]]


def reconstruction(attempt: Attempt) -> Float[Tensor, ""]:
    """Mean squared distance; as targets have total variance 1, this is the fraction of variance unexplained."""
    return (attempt.y - attempt.written).square().sum(-1).mean()


def revival(patience: int, most: int = 32) -> Term:
    """The AuxK term: dead latents must explain what is left over (Gao et al. 2024, arXiv 2406.04093, A.2).

    The gradient reaches the dead latents' encoder rows, even where their pre-activations are negative (straight
    through the rectifier): a latent that is below zero on every row would else never come back.

    Args:
        patience: a latent is dead after so many rows without it.
        most: how many dead latents explain a row.
    """

    def term(attempt: Attempt) -> Float[Tensor, ""]:
        dead = attempt.learner.dead(patience).nonzero().squeeze(1)
        if not len(dead):
            return attempt.written.new_zeros(())
        waiting = attempt.preactivations[:, dead]
        strongest = waiting.topk(min(most, len(dead)), dim=-1)
        straight = strongest.values + (functional.relu(strongest.values) - strongest.values).detach()
        explained = torch.zeros_like(waiting).scatter(1, strongest.indices, straight)
        left = (attempt.y - attempt.written).detach()
        return (left - explained @ attempt.learner.coder.w_dec[dead]).square().sum(-1).mean()

    return term
