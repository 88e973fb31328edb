"""Fixtures: a model and the same model rotated, and the bridge between them."""

import pytest

from glassworks.models import Model
from glassworks.transfer import Bridge, align
from tests.transfer import worlds


@pytest.fixture(scope="session")
def twins() -> worlds.Twins:
    return worlds.twins()


@pytest.fixture(scope="session")
def bridge(twins: worlds.Twins) -> Bridge:
    one, turned, _ = twins
    return align(one, turned, worlds.texts(300), ("resid_pre", "resid_mid", "resid_post", "mlp_in", "mlp_out"))


@pytest.fixture(scope="session")
def lettered() -> Model:
    return Model(worlds.tiny_llama(2), worlds.by_letters(), "letters")
