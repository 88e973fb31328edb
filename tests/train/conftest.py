"""Activations with a planted dictionary, and a small model to replace the MLPs of."""

from collections.abc import Callable

import pytest
import torch

from glassworks.harvest import Recording
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train import Layerwise, Learner, Sparsity, reconstruction, revival
from tests.tiny import tiny_gemma3

SITE = Site("resid_post", 0)


@pytest.fixture(scope="session")
def planted() -> tuple[torch.Tensor, Recording]:
    """40 random directions in 24 dimensions, 3 of them on in a row, and 6,000 such rows."""
    generator = torch.Generator().manual_seed(5)
    truth = torch.nn.functional.normalize(torch.randn(40, 24, generator=generator))
    on = torch.rand(6000, 40, generator=generator).topk(3).indices
    strength = 1.0 + torch.rand(6000, 3, generator=generator)
    values = (truth[on] * strength[..., None]).sum(1)
    rows = torch.arange(6000)
    return truth, Recording(rows % 7, rows // 10, rows % 10, {SITE.name: values})


@pytest.fixture
def learning(planted) -> Callable[..., Layerwise]:
    """A fresh objective for the planted rows."""

    def make(d_latent: int = 60, k: float = 3, start: float = 3.0, patience: int = 2000) -> Layerwise:
        rows = planted[1].values[SITE.name]
        learner = Learner(SITE, SITE, rows, rows, d_latent, torch.Generator().manual_seed(1))
        terms = {"error": (1.0, reconstruction), "revival": (0.125, revival(patience, 8))}
        return Layerwise([learner], terms, Sparsity(k, start))

    return make


@pytest.fixture(scope="session")
def tiny() -> Model:
    """A random model of two layers."""
    return Model(tiny_gemma3(31), name="tiny")
