"""Recording against one document at a time."""

import pytest
import torch
import transformers

from glassworks.errors import BadInput
from glassworks.harvest import batches, pad, record
from glassworks.models import Model
from glassworks.sites import Site

SITES = [Site("mlp_in", 1), Site("resid_post", 0)]
DOCUMENTS = [[2, *range(3, 3 + length)] for length in (4, 1, 7, 4, 9, 2, 0)]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    return Model(transformers.LlamaForCausalLM(config), name="tiny")


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("batch", [1, 16, 4096])
def test_rows_are_those_of_single_documents(model: Model, first: int, batch: int):
    recording = record(model, DOCUMENTS, SITES, first, batch)
    rows = [(n, p, token) for n, each in enumerate(DOCUMENTS) for p, token in enumerate(each) if p >= first]
    assert [*zip(*(t.tolist() for t in (recording.documents, recording.positions, recording.tokens)), strict=True)] == (
        rows
    )
    for site in SITES:
        alone = torch.cat([model.capture(each, [site])[site.name][first:] for each in DOCUMENTS])
        assert torch.allclose(recording.values[site.name], alone, atol=1e-5)


def test_nothing_to_record(model: Model):
    with pytest.raises(BadInput, match="more than 3 tokens"):
        record(model, [[1, 2], [3]], SITES, 3)


def test_batches_hold_every_document_once_and_stay_small():
    lengths = [5, 30, 2, 2, 9, 9, 1, 30]
    groups = batches([[0] * length for length in lengths], 20)
    assert sorted(number for group in groups for number in group) == list(range(8))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[number] for number in group) <= 20


def test_padding():
    ids, real = pad([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 8, 8]]
    assert real.tolist() == [[True] * 3, [True, False, False]]
