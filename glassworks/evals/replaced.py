"""The replaced model: coders stand in for a model's MLPs, and the loss of its predictions says what was lost.

The share recovered is (ablated - replaced) / (ablated - true), where ablated means that every replaced site
gives its mean: 1 is as good as the model, 0 as bad as no MLP that looks at its input.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from glassworks.coders import Coder
from glassworks.harvest import Recording, batches, pad
from glassworks.models import Model
from glassworks.sites import Site

BATCH_TOKENS = 4096
Stand = Callable[[Tensor, Tensor], Tensor]
"""Takes rows at the read site and the true rows at the write site, gives the rows to write."""


@final
@dataclass(frozen=True)
class Recovered:
    """How much of the next-token loss coders recover.

    Attributes:
        true: loss of the model, nats a token.
        replaced: loss with the coders in place of what they stand for, all at once.
        ablated: loss with the mean in its place.
    """

    true: float
    replaced: float
    ablated: float

    @property
    def share(self) -> float:
        """The share of the loss that is recovered: 1 is all of it."""
        return (self.ablated - self.replaced) / (self.ablated - self.true)


@contextmanager
def replacing(
    model: Model, stands: Mapping[tuple[Site, Site], Stand], real: Bool[Tensor, "document token"]
) -> Iterator[None]:
    """Let functions stand in for what lies between pairs of sites, while the block runs.

    Args:
        model: the model.
        stands: (read site, write site) -> function of the rows at both.
        real: which positions are replaced; the others keep what the model gives.
    """
    inputs: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], None]:
        def tap(value: Tensor) -> None:
            inputs[site] = value

        return tap

    def put(read: Site, stand: Stand) -> Callable[[Tensor], Tensor]:
        def tap(value: Tensor) -> Tensor:
            return value.masked_scatter(real[..., None], stand(inputs[read][real], value[real]).to(value.dtype))

        return tap

    taps = {read: keep(read) for read, _ in stands}
    with model.tapped(taps | {write: put(read, stand) for (read, write), stand in stands.items()}):
        yield


@torch.no_grad()
def recovered(
    model: Model,
    coders: Sequence[Coder],
    documents: Sequence[Sequence[int]],
    recording: Recording,
    answers: Sequence[Sequence[bool]] | None = None,
    first: int = 0,
) -> Recovered:
    """Measure the loss recovered with all coders in place at once.

    Args:
        model: the model.
        coders: what stands in, one for each site that it writes.
        documents: token ids each.
        recording: activations at the write sites, for their means.
        answers: which tokens of each document count; by default all that have one before them.
        first: positions before this one keep what the model gives.
    """
    means = {coder.writes[0]: recording.values[coder.writes[0].name].mean(0) for coder in coders}
    kinds: list[dict[tuple[Site, Site], Stand]] = [
        {},
        {(each.reads[0], each.writes[0]): _coded(each) for each in coders},
        {(each.reads[0], each.writes[0]): _constant(means[each.writes[0]]) for each in coders},
    ]
    return Recovered(*(_loss(model, kind, documents, answers, first) for kind in kinds))


def _coded(coder: Coder) -> Stand:
    return lambda x, y: coder(x)


def _constant(mean: Float[Tensor, " d"]) -> Stand:
    return lambda x, y: mean.expand_as(y)


def _loss(
    model: Model,
    stands: dict[tuple[Site, Site], Stand],
    documents: Sequence[Sequence[int]],
    answers: Sequence[Sequence[bool]] | None,
    first: int,
) -> float:
    total, count = 0.0, 0
    for group in batches(documents, BATCH_TOKENS):
        ids, real = pad([documents[number] for number in group])
        counted = real.clone()
        if answers is not None:
            marks, _ = pad([[int(mark) for mark in answers[number]] for number in group])
            counted &= marks.bool()
        real[:, :first] = False
        with replacing(model, stands, real):
            logits = model.hf(input_ids=ids.to(model.device), use_cache=False).logits
        wanted = counted[:, 1:]
        loss = functional.cross_entropy(logits[:, :-1][wanted].double(), ids[:, 1:][wanted], reduction="sum")
        total, count = total + float(loss), count + int(wanted.sum())
    return total / max(count, 1)
