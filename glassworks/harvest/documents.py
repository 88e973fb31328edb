"""Documents: lists of token ids, and how they become the rectangles that a model takes.

Documents are padded on the right: attention is causal, so real tokens never see the padding, and no mask is
needed. This module must not know what is done with the rectangles.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def pad(documents: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "document token"], Bool[Tensor, "document token"]]:
    """Put documents into one rectangle.

    Args:
        documents: token ids each, of any lengths.

    Returns:
        The ids, shorter documents filled with their own last token, and which of them are real.
    """
    width = max(len(each) for each in documents)
    ids = torch.tensor([[*each] + [each[-1]] * (width - len(each)) for each in documents])
    lengths = torch.tensor([len(each) for each in documents])
    return ids, torch.arange(width) < lengths[:, None]


def batches(documents: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Group documents of similar length, so that little is padded.

    Args:
        documents: token ids each.
        tokens: size of a batch's rectangle at the most (a longer document goes alone).

    Returns:
        Numbers of documents, batch by batch, every document once.
    """
    groups: list[list[int]] = []
    for number in sorted(range(len(documents)), key=lambda each: len(documents[each])):
        if groups and (len(groups[-1]) + 1) * len(documents[number]) <= tokens:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups
