"""Loss terms, each written once for every coder, gate and form of the codes.

All are means over tokens. Sums over parts are sums over all latents of the coder. A term must not know the loop.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from glassworks.train.attempt import Attempt, Part, Share
from glassworks.train.schedule import Ramp
from glassworks.train.touches import Everything, Largest, Touch


class Term(ABC):
    """One summand of a loss: a frozen value that gives a number for an attempt."""

    @abstractmethod
    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The number to make small, before its weight."""

    def touch(self, part: Part) -> Touch | None:
        """Which pre-activations it needs beyond those of the gate; none by default."""
        return None

    @property
    def name(self) -> str:
        """What metrics call it."""
        return type(self).__name__.lower()


@final
@dataclass(frozen=True)
class Reconstruction(Term):
    """Squared error, averaged over the sites that are written and over Matryoshka prefixes.

    On centred rows it is the fraction of variance unexplained. Bussmann et al. (2025, arXiv 2503.17547) sum over
    prefixes; here it is the mean, so that the weights of the other terms mean the same with and without prefixes.
    """

    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The error."""
        errors = (attempt.nested - attempt.target).square().sum(-1)
        return errors.mean() / attempt.sites


@final
@dataclass(frozen=True)
class L1(Term):
    """Sum of activations (Bricken et al. 2023), each times the length of its decoder row (Conerly et al. 2024).

    Attributes:
        lengths: whether to multiply by the lengths; without, decoder rows must be kept at length 1, or the
            activations shrink while the decoder grows.
    """

    lengths: bool = True

    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The sum a token."""
        return _total(attempt, [_lengthened(each) if self.lengths else each.values for each in attempt.shares])


@final
@dataclass(frozen=True)
class L0(Term):
    """How many latents are on (Rajamanoharan et al. 2024, 2407.14435, equation 9); gradients by the gate's step."""

    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The number a token."""
        return _total(attempt, [share.on for share in attempt.shares])


@final
@dataclass(frozen=True)
class QuadraticL0(Term):
    """`(L0 - target)^2 / (2 target)` of each token (Gemma Scope 2, equation 4).

    The report prints the factor 2 / target and says that the gradient then equals that of a linear penalty at about
    twice the target. Both cannot hold: at L0 = 2 target the gradient of c (L0 - target)^2 is 2 c target, which is 1
    for c = 1 / (2 target) and 4 for 2 / target. The text is followed, so that a weight means the same as for `L0`;
    a weight four times as large gives the printed formula, which SAELens implements.

    Attributes:
        target: latents a token, over the steps.
    """

    target: Ramp

    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The squared deviation, averaged over tokens."""
        counts = torch.stack([share.codes.by_token(share.on) for share in attempt.shares]).sum(0)
        target = self.target(attempt.step)
        return (counts - target).square().mean() / (2 * target)


@final
@dataclass(frozen=True)
class Tanh(Term):
    """`sum tanh(c * activation * length of the decoder row)` (Anthropic, January 2025): L1 that levels off.

    Attributes:
        scale: c; 4 in the source.
    """

    scale: float = 4.0

    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The sum a token."""
        return _total(attempt, [(self.scale * _lengthened(share)).tanh() for share in attempt.shares])


@final
@dataclass(frozen=True)
class Frequency(Term):
    """`sum p^2 / often` over latents, p being the share of tokens on which a latent is on.

    The second half of `sum p (1 + p / often)` (Rajamanoharan et al. 2025, "progress update 2"); the first half is
    `L0`, or whatever else sets the sparsity. Gemma Scope 2 says that it has such a term and not which. It thins out
    latents that are on at more than a tenth of the tokens and hardly touches the others.

    Attributes:
        often: the frequency at which it weighs as much as `L0` does.
    """

    often: float = 0.1

    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The sum over latents."""
        shares = [share.codes.by_latent(share.on) / attempt.tokens for share in attempt.shares]
        return sum((each.square().sum() for each in shares), attempt.target.new_zeros(())) / self.often


@final
@dataclass(frozen=True)
class Silence(Term):
    """`sum relu(threshold - pre-activation) * length of the decoder row` (Anthropic, January 2025).

    It pulls latents that never fire towards their threshold. Nearly every pre-activation lies below it, so this
    term needs the dense form.
    """

    def touch(self, part: Part) -> Touch | None:
        """All."""
        return Everything()

    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The sum a token."""
        total = attempt.target.new_zeros(())
        for share in attempt.shares:
            codes, threshold = share.asked[self], share.part.learned["log_threshold"].exp()
            below = (codes.of_latent(threshold) - codes.pre).relu()
            total = total + codes.by_latent(below * codes.of_latent(share.part.norms)).sum()
        return total / attempt.tokens


@final
@dataclass(frozen=True)
class GateL1(Term):
    """Sum of the gate's rectified pre-activations (Rajamanoharan et al. 2024, arXiv 2404.16014, equation 8)."""

    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The sum a token."""
        return _total(attempt, [share.codes.pre.relu() for share in attempt.shares])


@final
@dataclass(frozen=True)
class GateReconstruction(Term):
    """Squared error of the gate's rectified pre-activations, decoded by a decoder that takes no gradient (ibid.)."""

    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The error, averaged over the sites that are written."""
        left = attempt.target - attempt.bias.detach()
        for share in attempt.shares:
            found = share.codes.decode(share.codes.pre.relu(), share.part.w_dec.detach())
            left = left - functional.pad(found, (share.columns.start, left.shape[1] - share.columns.stop))
        return left.square().sum(-1).mean() / attempt.sites


@final
@dataclass(frozen=True)
class AuxK(Term):
    """Dead latents must explain what is left over (Gao et al. 2024, arXiv 2406.04093, A.2).

    The gradient reaches the dead latents' encoder rows, even where their pre-activations are negative (straight
    through the rectifier): a latent that is below zero on every row would else never come back.

    Attributes:
        most: how many dead latents explain a row.
    """

    most: int = 32

    def touch(self, part: Part) -> Touch | None:
        """The largest among the dead; nothing while none is dead."""
        dead = part.dead
        return Largest(self.most, dead) if bool(dead.any()) else None

    def __call__(self, attempt: Attempt) -> Float[Tensor, ""]:
        """The error that they leave, averaged over the sites that are written."""
        total, left = attempt.target.new_zeros(()), (attempt.target - attempt.written).detach()
        for share in attempt.shares:
            if self in share.asked:
                codes = share.asked[self]
                straight = codes.pre + (codes.pre.relu() - codes.pre).detach()
                explained = codes.decode(straight, share.part.w_dec)
                total = total + (left[:, share.columns] - explained).square().sum(-1).mean()
        return total / attempt.sites


def _total(attempt: Attempt, entries: list[Tensor]) -> Float[Tensor, ""]:
    """Entries of each share summed up, a token."""
    sums = [share.codes.by_token(each).sum() for share, each in zip(attempt.shares, entries, strict=True)]
    return sum(sums[1:], sums[0]) / attempt.tokens


def _lengthened(share: Share) -> Tensor:
    """Activations times the lengths of their decoder rows: what they write."""
    return share.values * share.codes.of_latent(share.part.norms)
