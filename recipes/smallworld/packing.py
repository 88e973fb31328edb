"""From documents to rows of tokens: several short documents share a row and do not see each other.

The rows of a part of the stream depend on the seed and the part's number alone, so training can resume at any step by
counting. This file must not know the model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from glassworks.smallworld import Document
from recipes.smallworld.recipe import Recipe
from recipes.smallworld.tokenizer import EOS, PAD

OPEN_ROWS = 8
CHUNK = 512
BATCHES_PER_PART = 64
Stream = Callable[[int, int], Iterator[Document]]
"""From a seed and a part's number to documents without end."""
Encoded = tuple[list[int], list[float]]
"""Token ids of a document, and the weight of predicting each of them."""


@dataclass(frozen=True)
class Rows:
    """Rows of packed documents.

    Attributes:
        ids: token ids, padded.
        weights: weight of predicting each token; 0 for a document's first token and for padding.
        documents: number of the document within its row, -1 for padding.
        positions: position within the document.
    """

    ids: Int[Tensor, "row token"]
    weights: Float[Tensor, "row token"]
    documents: Int[Tensor, "row token"]
    positions: Int[Tensor, "row token"]

    def slice(self, start: int, stop: int) -> "Rows":
        """Return some of the rows."""
        return Rows(*(value[start:stop] for value in (self.ids, self.weights, self.documents, self.positions)))

    def mask(self) -> Bool[Tensor, "row 1 token token"]:
        """Return which token (last but one axis) may look at which: earlier ones of its own document."""
        length = self.ids.shape[1]
        same = self.documents[:, None, :, None] == self.documents[:, None, None, :]
        return same & torch.tril(torch.ones(length, length, dtype=torch.bool))


def training_rows(tokenizer: Tokenizer, recipe: Recipe, part: int, stream: Stream) -> Rows:
    """Return the rows of one part of training, `BATCHES_PER_PART` batches long."""
    shape = (recipe.rows * BATCHES_PER_PART, recipe.length)
    ids, weights = torch.full(shape, PAD), torch.zeros(shape)
    numbers, positions = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    for row, documents in enumerate(islice(_packed(tokenizer, recipe, stream(recipe.seed, part)), shape[0])):
        start = 0
        for number, (document_ids, document_weights) in enumerate(documents):
            stop = start + len(document_ids)
            ids[row, start:stop] = torch.tensor(document_ids)
            weights[row, start:stop] = torch.tensor(document_weights)
            numbers[row, start:stop] = number
            positions[row, start:stop] = torch.arange(stop - start)
            start = stop
    return Rows(ids, weights, numbers, positions)


def _packed(tokenizer: Tokenizer, recipe: Recipe, documents: Iterator[Document]) -> Iterator[list[Encoded]]:
    """Fill rows with documents, first fit into a few open rows, and give each row away when it is full."""
    rows: list[list[Encoded]] = []
    room: list[int] = []
    for document in _encoded(tokenizer, recipe, documents):
        size = len(document[0])
        if size > recipe.length:
            continue
        place = next((index for index, free in enumerate(room) if free >= size), None)
        if place is None:
            if len(rows) == OPEN_ROWS:
                fullest = room.index(min(room))
                room.pop(fullest)
                yield rows.pop(fullest)
            rows.append([])
            room.append(recipe.length)
            place = len(rows) - 1
        rows[place].append(document)
        room[place] -= size


def _encoded(tokenizer: Tokenizer, recipe: Recipe, documents: Iterator[Document]) -> Iterator[Encoded]:
    """Documents as token ids (with `<bos>` and `<eos>`) and the weight of predicting each of them: answers weigh 1."""
    while some := list(islice(documents, CHUNK)):
        encodings = tokenizer.encode_batch([document.text for document in some])
        for document, encoding in zip(some, encodings, strict=True):
            answers = [
                any(stop > first and start < last for first, last in document.spans)
                for start, stop in encoding.offsets[1:]
            ]
            weights = [0.0, *(1.0 if answer else recipe.context_weight for answer in answers), recipe.context_weight]
            yield [*encoding.ids, EOS], weights
