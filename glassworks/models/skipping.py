"""Run a part of a model: the upper blocks, from a residual stream that is known already; the last MLP at one token.

Blocks below are not computed: each passes its input on. This module must not know why.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from glassworks.models.taps import Taps
from glassworks.sites import Site


@contextmanager
def starting(taps: Taps, layer: int, stream: Float[Tensor, "#batch token d_model"]) -> Iterator[None]:
    """Let every forward within the block begin at a layer; taps below it do not run as they would.

    Args:
        taps: the model's taps; none may be acting, since those below would see nothing.
        layer: the first that is computed; the number of layers for none.
        stream: what the layer below it gives, its `resid_post`; not used at layer 0.
    """
    assert not taps.stack, "taps below the first layer would be passed over"
    below = taps.anatomy.layers[:layer]
    for block in below:
        block.forward = _passing_on
    try:
        with taps.added({Site("resid_post", layer - 1): lambda value: stream.expand_as(value)} if layer else {}):
            yield
    finally:
        for block in below:
            del block.forward


def _passing_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


@contextmanager
def ending(taps: Taps) -> Iterator[None]:
    """Compute the last block's MLP at the last token alone; what that block gives at other tokens is then not right.

    Args:
        taps: the model's taps; none may look at that MLP.
    """
    mlp = taps.anatomy.part("mlp", len(taps.anatomy.layers) - 1)
    assert mlp is not None
    hook = mlp.register_forward_pre_hook(lambda _, given: (given[0][:, -1:], *given[1:]))
    try:
        yield
    finally:
        hook.remove()
