"""Frozen parts: record a clean run before every forward, and replay it while an edit acts.

With attention patterns, norm scales and MLP outputs all frozen the model is linear between MLP outputs, which is
what attribution graphs describe (`Circuit Tracing`, Ameisen et al. 2025, local replacement model). This module
must not know what edits are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from glassworks.errors import BadInput, Unsupported
from glassworks.models.places import kinds
from glassworks.models.run import forward_arguments
from glassworks.models.taps import Tap, Taps, TapSet
from glassworks.sites import KINDS, Site

PARTS: dict[str, tuple[str, ...]] = {
    "patterns": ("pattern",),
    "norms": tuple(kind for kind in KINDS if kind.endswith("norm_scale")),
    "mlps": ("mlp_out",),
}
"""What can be frozen -> the kinds of sites whose values are replayed."""


def sites_of(taps: Taps, frozen: Sequence[str]) -> list[Site]:
    """List the sites that freezing means in a model.

    Raises:
        BadInput: a name is not in `PARTS`.
    """
    wrong = [name for name in frozen if name not in PARTS]
    if isinstance(frozen, str) or wrong:
        raise BadInput(f"Frozen can be {', '.join(PARTS)}, given as a tuple of names; got {frozen!r}.")
    present = [kind for kind in kinds(taps.anatomy) if any(kind in PARTS[name] for name in frozen)]
    layers = range(len(taps.anatomy.layers))
    return [Site(kind, layer) for kind in present for layer in (layers if KINDS[kind].layered else [None])]


@contextmanager
def replaying(
    taps: Taps, hf: nn.Module, frozen: Iterable[Site], also: Iterable[Site] = ()
) -> Iterator[Mapping[Site, Tensor]]:
    """Replay the values of a clean run at the frozen sites, for every forward of the model within the block.

    The clean run has the same inputs and the taps that acted before this block.

    Args:
        taps: the model's taps.
        hf: the Hugging Face module.
        frozen: sites whose clean values are put back.
        also: sites whose clean values are recorded besides.

    Yields:
        Site -> its clean value, filled anew before every forward.
    """
    below, clean = taps.stack, {}
    replay: dict[Site, Tap] = {site: lambda _, site=site: clean[site] for site in frozen}
    record: dict[Site, Tap] = {
        site: lambda value, site=site: clean.__setitem__(site, value.detach()) for site in {*replay, *also}
    }

    def run_clean_first(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not any(each.taps is replay for each in taps.stack):
            return  # what runs now is a clean run, this one's or that of an outer block
        if forward_arguments(module, args, kwargs)["cache"] is not None:
            raise Unsupported("With frozen parts the model runs without a key-value cache; use Model.generate.")
        with taps.exactly((*below, TapSet(record))), torch.no_grad():
            module(*args, **kwargs)

    hook = hf.register_forward_pre_hook(run_clean_first, with_kwargs=True)
    try:
        with taps.added(replay):
            yield clean
    finally:
        hook.remove()
