"""Run prompts and keep the values at sites.

This module must not know text: it gets ids.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from jaxtyping import Int
from torch import Tensor, nn

from glassworks.models.taps import Taps
from glassworks.sites import Site


class _Enough(Exception):
    """All wanted sites were seen; the rest of the model need not run."""


def padded(rows: Sequence[Int[Tensor, " _"]]) -> tuple[Int[Tensor, "prompt token"], list[int]]:
    """Stack prompts, the shorter ones filled up on the right, where causal attention never looks; and their lengths."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True), [len(row) for row in rows]


@torch.no_grad()
def capture_batch(
    hf: nn.Module,
    taps: Taps,
    ids: Int[Tensor, "prompt token"],
    lengths: Sequence[int],
    sites: Sequence[Site],
    batch_size: int,
) -> dict[Site, Tensor]:
    """Keep the values of sites for stacked prompts, (prompt, token, width...), nan beyond each prompt's length."""
    starts = range(0, len(ids), batch_size)
    chunks = [slice(start, start + batch_size) for start in starts]
    parts = [_capture(hf, taps, ids[chunk], lengths[chunk], sites) for chunk in chunks]
    values = {site: torch.cat([part[site] for part in parts]) if len(parts) > 1 else parts[0][site] for site in sites}
    if min(lengths) < ids.shape[1]:
        beyond = torch.arange(ids.shape[1])[None] >= torch.tensor(lengths)[:, None]
        values = {site: _blank(value, beyond.to(value.device)) for site, value in values.items()}
    return values


def _capture(
    hf: nn.Module, taps: Taps, ids: Tensor, lengths: Sequence[int], sites: Sequence[Site]
) -> dict[Site, Tensor]:
    values: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], None]:
        def tap(value: Tensor) -> None:
            values[site] = value
            if len(values) == len(set(sites)):
                raise _Enough

        return tap

    with taps.reading(lengths), taps.added({site: keep(site) for site in sites}), suppress(_Enough):
        hf(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return values


def _blank(value: Tensor, beyond: Tensor) -> Tensor:
    return value.masked_fill(beyond.reshape(*beyond.shape, *[1] * (value.ndim - 2)), torch.nan)
