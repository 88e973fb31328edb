"""A small model for the recipes' tests."""

import pytest

from glassworks.models import Model
from tests.tiny import tiny_gemma3


@pytest.fixture(scope="session")
def tiny() -> Model:
    """A random model of two layers."""
    return Model(tiny_gemma3(31), name="tiny")
