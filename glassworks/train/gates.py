"""Gates: which latents are on while they are trained, and how strongly. Values that a spec holds.

A gate selects the pre-activations that matter, makes activations of them, with the gradients that the papers define
where a step has none, and says what the trained coder's activation is. Its learned numbers lie in the part that it
belongs to.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks import coders
from glassworks.train.output import CoderPart
from glassworks.train.schedule import Ramp
from glassworks.train.selection import Above, Largest, LargestOfBatch, Selected, Selector

Encoder = tuple[Tensor, Tensor, coders.Activation]
"""Matrix, bias and activation."""


class Gate(ABC):
    """Turns pre-activations into activations."""

    def parameters(self, first: Float[Tensor, " latent"]) -> dict[str, Tensor]:
        """What it learns, as it is in the beginning; nothing by default.

        Args:
            first: above which pre-activation each latent should be on.
        """
        return {}

    @property
    def calibrated(self) -> float | None:
        """How many latents per token the trained coder's threshold must leave on; None where it has its own."""
        return None

    @property
    def first(self) -> float:
        """Above which pre-activation a latent is on in the beginning."""
        return 0.0

    def selector(self, part: CoderPart, step: int) -> Selector:
        """Which entries matter; by default those above zero."""
        return Above(torch.zeros_like(part.b_enc))

    def open(self, part: CoderPart, selected: Selected) -> tuple[Tensor, Tensor]:
        """The activations of the selected entries, and 1 where a latent is on; by default what is positive is on."""
        values = selected.pre.relu()
        return values, (values > 0).to(values.dtype)

    @abstractmethod
    def encoder(self, part: CoderPart) -> Encoder:
        """The trained coder's encoder matrix, encoder bias and activation."""


@final
@dataclass(frozen=True)
class Rectifier(Gate):
    """Every positive pre-activation is on; an L1 term makes it sparse (Bricken et al. 2023)."""

    def encoder(self, part: CoderPart) -> Encoder:
        """As it was trained, with ReLU."""
        return part.w_enc.detach(), part.b_enc, coders.ReLU()


@final
@dataclass(frozen=True)
class TopK(Gate):
    """The k largest of each token are on, where positive (Gao et al. 2024, arXiv 2406.04093).

    Attributes:
        k: how many, over the steps.
        jump: give the trained coder a JumpReLU of the same mean L0, whose choice depends on no other latent.
    """

    k: Ramp
    jump: bool = False

    @property
    def calibrated(self) -> float | None:
        """K in the end, where a threshold replaces it."""
        return float(self.k.end) if self.jump else None

    def selector(self, part: CoderPart, step: int) -> Selector:
        """The k largest."""
        return Largest(max(1, round(self.k(step))))

    def encoder(self, part: CoderPart) -> Encoder:
        """As it was trained, with TopK, or JumpReLU at the calibrated threshold."""
        activation = _jumprelu(part) if self.jump else coders.TopK(max(1, round(self.k.end)))
        return part.w_enc.detach(), part.b_enc, activation


@final
@dataclass(frozen=True)
class BatchTopK(Gate):
    """The k * tokens largest of a batch are on, where positive (Bussmann et al. 2024, arXiv 2412.06410).

    Attributes:
        k: how many per token on average, over the steps.
    """

    k: Ramp

    @property
    def calibrated(self) -> float | None:
        """K in the end: a trained coder has JumpReLU, as the choice at a token must not depend on its batch."""
        return float(self.k.end)

    def selector(self, part: CoderPart, step: int) -> Selector:
        """The largest of the batch."""
        return LargestOfBatch(self.k(step), part.cut)

    def encoder(self, part: CoderPart) -> Encoder:
        """As it was trained, with JumpReLU at the calibrated threshold."""
        return part.w_enc.detach(), part.b_enc, _jumprelu(part)


@final
@dataclass(frozen=True)
class JumpReLU(Gate):
    """A latent is on above a threshold that it learns (Rajamanoharan et al. 2024, arXiv 2407.14435).

    With the rectangle kernel K of width `bandwidth` e, the gradients of a loss through the activation J and through
    the step H, both at pre-activation z and threshold t, are the paper's (equations 11 and 12):
    dJ/dz = H, dJ/dt = -(t / e) K((z - t) / e), dH/dz = 0, dH/dt = -(1 / e) K((z - t) / e).
    The threshold is learned as its logarithm, so that it stays positive.

    Attributes:
        initial: threshold in the beginning, in units of the scaled activations.
        bandwidth: width of the kernel.
        everything: the step's gradient reaches the pre-activation as well, dH/dz = (1 / e) K, so that a penalty on
            H trains all parameters and not the thresholds alone.
    """

    initial: int | float = 0.001
    bandwidth: int | float = 0.001
    everything: bool = False

    def parameters(self, first: Float[Tensor, " latent"]) -> dict[str, Tensor]:
        """The logarithms of the thresholds."""
        return {"log_threshold": first.log()}

    @property
    def first(self) -> float:
        """The first threshold."""
        return float(self.initial)

    def selector(self, part: CoderPart, step: int) -> Selector:
        """Those that are on, and those in the kernel's window."""
        return Above(part.learned["log_threshold"].detach().exp() - self.bandwidth / 2)

    def open(self, part: CoderPart, selected: Selected) -> tuple[Tensor, Tensor]:
        """Those above their threshold."""
        threshold = selected.of_latent(part.learned["log_threshold"].exp())
        values, on = Jump.apply(selected.pre, threshold, self.bandwidth, self.everything)  # pyright: ignore[reportGeneralTypeIssues]
        return values, on

    def encoder(self, part: CoderPart) -> Encoder:
        """As it was trained, with JumpReLU at the learned thresholds."""
        return part.w_enc.detach(), part.b_enc, coders.JumpReLU(part.learned["log_threshold"].detach().exp())


@final
@dataclass(frozen=True)
class Gated(Gate):
    """A gate decides, another bias and scale say how strongly (Rajamanoharan et al. 2024, arXiv 2404.16014).

    The gate's step passes no gradient: the encoder learns when to fire from the auxiliary term. `b_enc` is the
    gate's bias; the trained coder is the JumpReLU coder that it equals.
    """

    def parameters(self, first: Float[Tensor, " latent"]) -> dict[str, Tensor]:
        """Logarithm of the magnitude's scale, and its bias."""
        return {"r_mag": torch.zeros_like(first), "b_mag": torch.zeros_like(first)}

    def open(self, part: CoderPart, selected: Selected) -> tuple[Tensor, Tensor]:
        """`relu(exp(r_mag) w x + b_mag)` where the gate is open."""
        read = selected.pre - selected.of_latent(part.b_enc)
        scale, bias = selected.of_latent(part.learned["r_mag"].exp()), selected.of_latent(part.learned["b_mag"])
        values = (scale * read + bias).relu() * (selected.pre > 0)
        return values, (values > 0).to(values.dtype)

    def encoder(self, part: CoderPart) -> Encoder:
        """That of the JumpReLU coder that it equals."""
        learned = {name: value.detach() for name, value in part.learned.items()}
        return coders.gated(part.w_enc.detach(), part.b_enc.detach(), learned["b_mag"], learned["r_mag"])


class Jump(torch.autograd.Function):
    """The pre-activation above the threshold, else 0, and the step, which is 1 there; with the paper's gradients.

    Few entries lie in the kernel's window, so only these are looked up again for the threshold's gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: int | float, everything: bool
    ) -> tuple[Tensor, Tensor]:
        """JumpReLU and its step; `threshold` has one row, or as many entries as `pre`."""
        on = (pre > threshold).to(pre.dtype)
        near = ((pre - threshold).abs_() < bandwidth / 2).nonzero(as_tuple=True)
        ctx.save_for_backward(on, threshold, *near)
        ctx.bandwidth, ctx.everything = bandwidth, everything
        ctx.set_materialize_grads(False)
        return pre * on, on

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """To the pre-activation where it is on (and in the window, where all learns from the step), and to the
        threshold from the window."""
        on, threshold, *near = ctx.saved_tensors
        of_values, of_step = grads
        pre = None if of_values is None else of_values * on
        flat, column = threshold.flatten(), near[-1]
        slope = flat.new_zeros(len(column))
        if of_values is not None:
            slope += of_values[tuple(near)] * flat[column]
        if of_step is not None:
            steep = of_step[tuple(near)]
            slope += steep
            if ctx.everything:
                pre = torch.zeros_like(on) if pre is None else pre
                pre[tuple(near)] += steep / ctx.bandwidth
        moved = torch.zeros_like(flat).index_add_(0, column, slope / -ctx.bandwidth)
        return pre, moved.view_as(threshold), None, None


def _jumprelu(part: CoderPart) -> coders.JumpReLU:
    return coders.JumpReLU(part.threshold.detach().expand(len(part.b_enc)).clone())
