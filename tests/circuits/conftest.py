"""Fixtures of the circuits' tests."""

import pytest

from glassworks.models import Model
from tests.circuits.tiny import CONFIGS, random_model


@pytest.fixture(params=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> Model:
    """A random tiny model of each family."""
    return random_model(request.param)
