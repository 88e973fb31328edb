"""Strata: tokens grouped by place in their document and by how often they occur.

A mean over all tokens hides a coder that fails on rare ones. Buckets double by position and go down by a factor of
ten in frequency.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from glassworks.evals.tally import Figure, Groups, Tally

Strata = dict[str, dict[str, dict[str, int | float]]]
"""Grouping -> group -> figure."""


def strata(
    tokens: Int[Tensor, " token"],
    documents: Int[Tensor, " token"],
    positions: Int[Tensor, " token"],
    counts: Int[Tensor, " vocabulary"] | None = None,
) -> Groups:
    """Group tokens by document, position and frequency.

    Args:
        tokens: their ids.
        documents: which document each comes from.
        positions: its place there.
        counts: how often each id occurs, by default among these tokens.
    """
    tokens = tokens.long()
    counts = torch.bincount(tokens) if counts is None else counts
    share = counts[tokens].double() / counts.sum()
    return {
        "document": documents.long(),
        "position": positions.double().log2().floor().clamp(min=-1).long() + 1,
        "frequency": (-share.log10()).floor().long(),
    }


def _positions(bucket: int) -> str:
    first, last = (1 << bucket) >> 1, max(0, (1 << bucket) - 1)
    return f"{first}" if first == last else f"{first}-{last}"


def _frequencies(bucket: int) -> str:
    return f"{10.0 ** (1 - bucket):g} to {10.0 ** (2 - bucket):g} %"


NAMES: dict[str, Callable[[int], str]] = {"position": _positions, "frequency": _frequencies}
"""Grouping -> what each of its groups is called: positions `4-7`, and `0.1 to 1 %` of all tokens."""


def by_stratum(tally: Tally, figures: Mapping[str, Figure]) -> Strata:
    """Figures of each stratum that has tokens, and how many it has.

    Args:
        tally: sums whose first column counts tokens.
        figures: by name.
    """
    found: Strata = {}
    for grouping, name in NAMES.items():
        for number, sums in enumerate(tally.by(grouping)):
            if sums[0] > 0:
                here = found.setdefault(grouping, {}).setdefault(name(number), {"tokens": int(sums[0])})
                here |= {figure: float(get(sums)) for figure, get in figures.items()}
    return found
