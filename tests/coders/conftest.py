"""A random transcoder."""

from collections.abc import Callable

import pytest
import torch

from glassworks.coders import Activation, JumpReLU, Transcoder
from glassworks.sites import Site


def transcoder(value: Activation | None = None, skip: bool = True, layer: int = 0) -> Transcoder:
    weights = {
        "w_enc": torch.randn(40, 8),
        "b_enc": torch.randn(40),
        "w_dec": torch.randn(40, 6),
        "b_dec": torch.randn(6),
    }
    weights |= {"w_skip": torch.randn(8, 6)} if skip else {}
    chosen = value or JumpReLU(torch.rand(40))
    return Transcoder(Site("mlp_in", layer), Site("mlp_out", layer), chosen, weights).requires_grad_(False)


@pytest.fixture
def build() -> Callable[..., Transcoder]:
    return transcoder
