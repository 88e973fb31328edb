"""Streams: endless batches whose order can be saved and taken up again exactly.

A stream's whole state is its random generator, as what it draws from is fixed. It knows no objective.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.harvest import Recording


class Stream(ABC):
    """Gives batches without end."""

    @abstractmethod
    def draw(self) -> Any:
        """The next batch."""

    @abstractmethod
    def generators(self) -> list[torch.Generator]:
        """The random generators that its order depends on."""


@final
class Rows(Stream):
    """Random rows of a recording, rare tokens more often than they occur.

    In text made of templates a few tokens are most of the corpus, and coders trained on it as it is never
    explain the rest. A frequent word before an answer matters too, as what it holds differs with the answer. So a
    row is drawn with probability ~ count(token)^-flatten + count(token and the next one)^-flatten, each with mean 1.

    Args:
        recording: what to draw from.
        batch: rows a batch.
        flatten: 0 as they occur, 1 all tokens and pairs alike.
        seed: of the order.
    """

    def __init__(self, recording: Recording, batch: int, flatten: float, seed: int) -> None:
        self.recording, self.batch = recording, batch
        weights = frequency_weights(recording.tokens, flatten) + frequency_weights(pairs(recording), flatten)
        self.sums = weights.double().cumsum(0)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> dict[str, Tensor]:
        """Site name -> rows."""
        points = torch.rand(self.batch, generator=self.generator, dtype=torch.float64) * self.sums[-1]
        rows = torch.searchsorted(self.sums, points).clamp_max(len(self.sums) - 1)
        return {name: values[rows] for name, values in self.recording.values.items()}

    def generators(self) -> list[torch.Generator]:
        """Its one generator."""
        return [self.generator]


@final
class Texts(Stream):
    """Random documents of similar length.

    Args:
        documents: token ids each.
        tokens: size of a batch's rectangle.
        seed: of the order.
    """

    def __init__(self, documents: Sequence[Sequence[int]], tokens: int, seed: int) -> None:
        self.documents = sorted(documents, key=len)
        self.tokens = tokens
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> list[Sequence[int]]:
        """Documents, token ids each."""
        anchor = int(torch.randint(len(self.documents), (), generator=self.generator))
        count = min(max(1, self.tokens // len(self.documents[anchor])), len(self.documents))
        start = max(0, min(anchor - 4 * count, len(self.documents) - 8 * count))
        near = self.documents[start : start + 8 * count]
        chosen = torch.randperm(len(near), generator=self.generator)[:count]
        return [near[number] for number in chosen.tolist()]

    def generators(self) -> list[torch.Generator]:
        """Its one generator."""
        return [self.generator]


@final
class Together(Stream):
    """One batch of each of several streams, for a `Joint` objective.

    Args:
        streams: in the order of the objectives.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = streams

    def draw(self) -> list[Any]:
        """The next batch of each."""
        return [stream.draw() for stream in self.streams]

    def generators(self) -> list[torch.Generator]:
        """Those of all its streams."""
        return [each for stream in self.streams for each in stream.generators()]


def pairs(recording: Recording) -> Int[Tensor, " row"]:
    """Number the pairs of each row's token and the next one of its document (or none)."""
    following = recording.tokens.roll(-1) + 1
    following[recording.documents != recording.documents.roll(-1)] = 0
    following[-1] = 0
    return torch.stack([recording.tokens, following]).unique(dim=1, return_inverse=True)[1]


def frequency_weights(tokens: Tensor, flatten: float) -> Float[Tensor, " row"]:
    """Weights ~ count(token)^-flatten of rows, with mean 1.

    Args:
        tokens: the token of each row.
        flatten: 0 gives all rows 1; 1 gives all tokens the same sum.
    """
    counts = torch.bincount(tokens)[tokens].float()
    weights = counts.pow(-flatten)
    return weights / weights.mean()
