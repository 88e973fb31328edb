"""Activations with a planted dictionary, and a small model to replace the MLPs of."""

from collections.abc import Callable

import pytest
import torch
import transformers

from glassworks.harvest import Recording
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train import Layerwise, Learner, Sparsity, reconstruction, revival

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
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        max_position_embeddings=32,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=0.3,
    )
    return Model(transformers.Gemma3ForCausalLM(config).requires_grad_(False), name="tiny")
