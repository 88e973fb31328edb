"""Loss terms, each written once for every coder, gate and form of the selection.

All are means over tokens. Sums over parts are sums over all latents of the coder.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from glassworks.train.output import CoderOutput, CoderPart, PartOutput
from glassworks.train.schedule import Ramp
from glassworks.train.selection import Everything, Largest, Selector


class Term(ABC):
    """One summand of a loss: a frozen value that gives a number for what a coder made of a batch."""

    @abstractmethod
    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The number to make small, before its weight."""

    def selector(self, part: CoderPart) -> Selector | None:
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

    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The error."""
        errors = (output.nested - output.target).square().sum(-1)
        return errors.mean() / output.sites


@final
@dataclass(frozen=True)
class L1(Term):
    """Sum of activations (Bricken et al. 2023), each times the length of its decoder row (Conerly et al. 2024).

    Attributes:
        lengths: whether to multiply by the lengths; without, decoder rows must be kept at length 1, or the
            activations shrink while the decoder grows.
    """

    lengths: bool = True

    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The sum per token."""
        return _total(output, [_written(piece) if self.lengths else piece.values for piece in output.parts])


@final
@dataclass(frozen=True)
class L0(Term):
    """How many latents are on (Rajamanoharan et al. 2024, 2407.14435, equation 9); gradients by the gate's step."""

    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The number per token."""
        return _total(output, [piece.on for piece in output.parts])


@final
@dataclass(frozen=True)
class QuadraticL0(Term):
    """`(L0 - target)^2 / (2 target)` of each token (Gemma Scope 2, equation 4).

    The report prints the factor 2 / target and says that the gradient then equals that of a linear penalty at about
    twice the target. Both cannot hold: at L0 = 2 target the gradient of c (L0 - target)^2 is 2 c target, which is 1
    for c = 1 / (2 target) and 4 for 2 / target. The text is followed, so that a weight means the same as for `L0`;
    a weight four times as large gives the printed formula, which SAELens implements.

    Attributes:
        target: latents per token, over the steps.
    """

    target: Ramp

    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The squared deviation, averaged over tokens."""
        counts = torch.stack([piece.selected.by_token(piece.on) for piece in output.parts]).sum(0)
        target = self.target(output.step)
        return (counts - target).square().mean() / (2 * target)


@final
@dataclass(frozen=True)
class Tanh(Term):
    """`sum tanh(c * activation * length of the decoder row)` (Anthropic, January 2025): L1 that levels off.

    Attributes:
        scale: c; 4 in the source.
    """

    scale: float = 4.0

    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The sum per token."""
        return _total(output, [(self.scale * _written(piece)).tanh() for piece in output.parts])


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

    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The sum over latents."""
        frequencies = [piece.selected.by_latent(piece.on) / output.tokens for piece in output.parts]
        return sum((p.square().sum() for p in frequencies), output.target.new_zeros(())) / self.often


@final
@dataclass(frozen=True)
class Silence(Term):
    """`sum relu(threshold - pre-activation) * length of the decoder row` (Anthropic, January 2025).

    It pulls latents that never fire towards their threshold. Nearly every pre-activation lies below it, so this
    term needs the dense form.
    """

    def selector(self, part: CoderPart) -> Selector | None:
        """All."""
        return Everything()

    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The sum per token."""
        total = output.target.new_zeros(())
        for piece in output.parts:
            selected, threshold = piece.extra[self], piece.part.learned["log_threshold"].exp()
            below = (selected.of_latent(threshold) - selected.pre).relu()
            total = total + selected.by_latent(below * selected.of_latent(piece.part.norms)).sum()
        return total / output.tokens


@final
@dataclass(frozen=True)
class GateL1(Term):
    """Sum of the gate's rectified pre-activations (Rajamanoharan et al. 2024, arXiv 2404.16014, equation 8)."""

    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The sum per token."""
        return _total(output, [piece.selected.pre.relu() for piece in output.parts])


@final
@dataclass(frozen=True)
class GateReconstruction(Term):
    """Squared error of the gate's rectified pre-activations, decoded by a decoder that takes no gradient (ibid.)."""

    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The error, averaged over the sites that are written."""
        left = output.target - output.bias.detach()
        for piece in output.parts:
            decoded = piece.selected.decode(piece.selected.pre.relu(), piece.part.w_dec.detach())
            left = left - functional.pad(decoded, (piece.columns.start, left.shape[1] - piece.columns.stop))
        return left.square().sum(-1).mean() / output.sites


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

    def selector(self, part: CoderPart) -> Selector | None:
        """The largest among the dead; nothing while none is dead."""
        dead = part.dead
        return Largest(self.most, dead) if bool(dead.any()) else None

    def __call__(self, output: CoderOutput) -> Float[Tensor, ""]:
        """The error that they leave, averaged over the sites that are written."""
        total, left = output.target.new_zeros(()), (output.target - output.written).detach()
        for piece in output.parts:
            if self in piece.extra:
                selected = piece.extra[self]
                straight = selected.pre + (selected.pre.relu() - selected.pre).detach()
                explained = selected.decode(straight, piece.part.w_dec)
                total = total + (left[:, piece.columns] - explained).square().sum(-1).mean()
        return total / output.sites


def _total(output: CoderOutput, entries: list[Tensor]) -> Float[Tensor, ""]:
    """The sum over all parts of their entries, per token."""
    sums = [piece.selected.by_token(values).sum() for piece, values in zip(output.parts, entries, strict=True)]
    return sum(sums[1:], sums[0]) / output.tokens


def _written(piece: PartOutput) -> Tensor:
    """Activations times the lengths of their decoder rows: what they write."""
    return piece.values * piece.selected.of_latent(piece.part.norms)
