"""Activations: which latents of a coder are on, as values that a coder holds.

Every one is a rectifier followed by a choice, so an active latent is always positive. They are values and not
subclasses of a coder, because any coder works with any of them. This module must not know what a coder is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glassworks.errors import BadInput, Unsupported, nearest

SAMPLED = 17
"""One in so many entries is sampled; prime, so that all latents take part."""


class Activation(ABC):
    """Turns pre-activations into the choice of active latents.

    Attributes:
        kind: its name in files.
        span: what a choice depends on: the `latent` alone, all latents of its `token`, or the `batch`.
    """

    kind: ClassVar[str]
    span: ClassVar[str]

    @abstractmethod
    def active(self, preactivations: Float[Tensor, "*token d_latent"]) -> Bool[Tensor, "*token d_latent"]:
        """Which latents are on; a latent that is on has a positive pre-activation, which is its activation."""

    def narrow(self, start: int, length: int) -> "Activation":
        """The same for a run of the latents; only where a choice depends on the latent alone."""
        if self.span != "latent":
            raise Unsupported(f"A {self.kind} activation chooses among all latents; it cannot be cut to some of them.")
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that belong to this value and move with its coder."""
        return {}

    def plain(self) -> dict[str, Any]:
        """The value as plain JSON (without its tensors), as `activation(plain, tensors)` reads it."""
        numbers = {each.name: getattr(self, each.name) for each in fields(self)}  # pyright: ignore[reportArgumentType]
        return {"kind": self.kind} | {name: value for name, value in numbers.items() if name not in self.tensors()}


@final
@dataclass(frozen=True)
class ReLU(Activation):
    """Every latent with a positive pre-activation is on."""

    kind: ClassVar[str] = "relu"
    span: ClassVar[str] = "latent"

    def active(self, preactivations: Float[Tensor, "*token d_latent"]) -> Bool[Tensor, "*token d_latent"]:
        """Which latents are on: those above zero."""
        return preactivations > 0


@final
@dataclass(frozen=True)
class TopK(Activation):
    """The k largest positive pre-activations of each token are on (Gao et al. 2024, arXiv 2406.04093, equation 4).

    Attributes:
        k: how many latents at the most.
    """

    k: int
    kind: ClassVar[str] = "topk"
    span: ClassVar[str] = "token"

    def __post_init__(self) -> None:
        _check_k(self.k)

    def active(self, preactivations: Float[Tensor, "*token d_latent"]) -> Bool[Tensor, "*token d_latent"]:
        """Which latents are on: exactly k a token, fewer where fewer are positive."""
        chosen = preactivations.topk(min(self.k, preactivations.shape[-1]), dim=-1, sorted=False).indices
        mask = torch.zeros_like(preactivations, dtype=torch.bool).scatter_(-1, chosen, True)
        return mask & (preactivations > 0)


@final
@dataclass(frozen=True)
class GroupMax(Activation):
    """The largest of each of k groups of neighbouring latents is on, where it is positive (EleutherAI sparsify).

    Attributes:
        k: how many groups; it divides the number of latents.
    """

    k: int
    kind: ClassVar[str] = "groupmax"
    span: ClassVar[str] = "token"

    def __post_init__(self) -> None:
        _check_k(self.k)

    def active(self, preactivations: Float[Tensor, "*token d_latent"]) -> Bool[Tensor, "*token d_latent"]:
        """Which latents are on: the first largest of each group, if positive."""
        if preactivations.shape[-1] % self.k:
            raise BadInput(f"{preactivations.shape[-1]} latents do not make {self.k} groups of one size.")
        grouped = preactivations.unflatten(-1, (self.k, -1))
        mask = torch.zeros_like(grouped, dtype=torch.bool).scatter_(-1, grouped.argmax(-1, keepdim=True), True)
        return mask.flatten(-2) & (preactivations > 0)


@final
@dataclass(frozen=True)
class BatchTopK(Activation):
    """The k * tokens largest positive pre-activations of a batch are on (Bussmann et al. 2024, arXiv 2412.06410).

    For training only, as the choice at a token depends on the others of its batch: a trained coder is exported
    with `JumpReLU` at the threshold that the training learned.

    Attributes:
        k: how many latents on average a token.
    """

    k: int | float
    kind: ClassVar[str] = "batch_topk"
    span: ClassVar[str] = "batch"

    def __post_init__(self) -> None:
        _check_k(self.k)

    def active(self, preactivations: Float[Tensor, "*token d_latent"]) -> Bool[Tensor, "*token d_latent"]:
        """Which latents are on: those at or above the k-th largest of the batch, and above zero."""
        return (preactivations >= self.threshold(preactivations)) & (preactivations > 0)

    def threshold(self, preactivations: Float[Tensor, "*token d_latent"]) -> Float[Tensor, ""]:
        """The smallest pre-activation that this batch keeps.

        The choice is exact. A sample of the batch says roughly where it lies, so that only the candidates above
        need to be ranked: most of a large batch is far below.
        """
        flat = preactivations.detach().flatten()
        keep = min(max(round(self.k * flat.numel() / preactivations.shape[-1]), 1), flat.numel())
        sample = flat[::SAMPLED]
        rough = sample.topk(min(2 * keep // SAMPLED + 1, len(sample)), sorted=False).values.min()
        candidates = flat[flat >= rough]
        return (candidates if len(candidates) >= keep else flat).topk(keep, sorted=False).values.min()


@final
@dataclass(frozen=True, eq=False)
class JumpReLU(Activation):
    """A latent is on where its pre-activation is strictly above its threshold (Rajamanoharan et al. 2024, 2407.14435).

    Attributes:
        threshold: one per latent, at least 0.
    """

    threshold: Float[Tensor, " d_latent"]
    kind: ClassVar[str] = "jumprelu"
    span: ClassVar[str] = "latent"

    def __post_init__(self) -> None:
        if not bool((self.threshold >= 0).all()):  # also refuses NaN
            raise BadInput("A JumpReLU threshold is negative or not a number; every threshold must be at least 0.")

    def active(self, preactivations: Float[Tensor, "*token d_latent"]) -> Bool[Tensor, "*token d_latent"]:
        """Which latents are on: those strictly above their threshold."""
        return preactivations > self.threshold.to(preactivations.dtype)

    def narrow(self, start: int, length: int) -> "JumpReLU":
        """The thresholds of a run of the latents."""
        return JumpReLU(self.threshold.narrow(0, start, length))

    def tensors(self) -> dict[str, Tensor]:
        """The thresholds."""
        return {"threshold": self.threshold}


_KINDS: dict[str, type[Activation]] = {each.kind: each for each in (ReLU, TopK, GroupMax, BatchTopK, JumpReLU)}


def activation(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Activation:
    """Read an activation back from its plain form and its tensors.

    Raises:
        Unsupported: a kind that this version does not have.
    """
    kind = str(plain.get("kind"))
    if kind not in _KINDS:
        raise Unsupported(f"There is no activation {kind!r}; {nearest(kind, _KINDS)}.")
    return _KINDS[kind](**{name: value for name, value in plain.items() if name != "kind"}, **tensors)


def _check_k(k: int | float) -> None:
    if not k > 0:
        raise BadInput(f"k is {k}; it must be above 0.")
