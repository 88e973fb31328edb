"""A tiny model, a corpus of ids, and what a store must hold of it: each context run alone."""

from pathlib import Path
from random import Random

import pytest
import torch

from glassworks.harvest import Contexts, Reading
from glassworks.models import Model
from tests.tiny import tiny_gemma3

SITES = ["mlp_in.1", "attn_heads.0", "resid_post.0"]
DICE = Random(0)
DOCUMENTS = [[DICE.randrange(2, 62) for _ in range(2 + number % 11)] for number in range(60)]


@pytest.fixture(scope="session")
def model() -> Model:
    return Model(tiny_gemma3(64), name="tiny")


@pytest.fixture(scope="session")
def truth(model):
    """(document, position) -> site -> activations."""
    contexts = Contexts(model, DOCUMENTS, Reading())
    found = {}
    for context in contexts:
        values = model.capture(context.tokens, SITES)
        for place, keep in enumerate(context.kept):
            if keep:
                found[context.documents[0], place] = {site: values[site][place] for site in SITES}
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
