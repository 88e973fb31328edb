"""Activations with a planted dictionary at several sites, specs for them, and a small model."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from glassworks.harvest import Recording, Rows
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train import Adam, AuxK, BatchTopK, Dead, Ramp, Rate, Reconstruction, Spec, layouts
from tests.tiny import tiny_gemma3

SITE = Site("resid_post", 0)
SITES = [Site(kind, layer) for kind in ("mlp_in", "mlp_out", "resid_post") for layer in (0, 1)]


@pytest.fixture(scope="session")
def planted() -> tuple[torch.Tensor, Recording]:
    """40 random directions in 24 dimensions, 3 of them on in a row, and 6,000 such rows; other sites are maps of it."""
    generator = torch.Generator().manual_seed(5)
    truth = torch.nn.functional.normalize(torch.randn(40, 24, generator=generator))
    on = torch.rand(6000, 40, generator=generator).topk(3).indices
    strength = 1.0 + torch.rand(6000, 3, generator=generator)
    values = {SITE.name: (truth[on] * strength[..., None]).sum(1)}
    for number, site in enumerate(site for site in SITES if site != SITE):
        values[site.name] = values[SITE.name] @ torch.randn(24, 24, generator=generator) * 0.3 + number
    rows = torch.arange(6000)
    return truth, Recording(rows % 7, rows // 10, rows % 10, values)


@pytest.fixture
def stream(planted) -> Callable[..., Rows]:
    """A fresh stream of the planted rows."""
    return lambda batch=128, seed=1: Rows(planted[1], batch, 0.0, seed)


@pytest.fixture
def spec() -> Callable[..., Spec]:
    """A spec for the planted rows, with some of its numbers changed."""

    def make(name: str = "a", kind: str = "sae", **changes) -> Spec:
        sites = SITES if kind not in ("sae", "crosscoder", "causal_crosscoder") else SITES[-2:]
        base = Spec(
            name=name,
            layout=layouts(kind, sites)[0],
            width=60,
            gate=BatchTopK(Ramp(3, 9, 100)),
            terms=((Ramp(1.0), Reconstruction()), (Ramp(0.125), AuxK(8))),
            adam=Adam(Rate(1e-2, decay=100), (0.9, 0.99)),
            steps=600,
            dead=Dead(2000),
        )
        return replace(base, **changes)

    return make


@pytest.fixture(scope="session")
def tiny() -> Model:
    """A random model of two layers."""
    return Model(tiny_gemma3(31), name="tiny")
