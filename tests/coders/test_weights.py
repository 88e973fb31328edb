"""Weights in their files against the library that wrote them: any layout, any rows, and damage refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from glassworks.coders import Stored, TopK, Transcoder, open_tensors
from glassworks.errors import BadArtefact, Unsupported
from glassworks.sites import Site

PROPERTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def stored(tmp_path, **tensors: torch.Tensor) -> dict[str, Stored]:
    save_file(tensors, tmp_path / "file.safetensors")
    return open_tensors(tmp_path / "file.safetensors")


@PROPERTY
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4)),
    seed=st.integers(0, 99),
)
def test_what_is_read_is_what_torch_indexes(tmp_path, dtype, shape, seed):
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    found = stored(tmp_path, first=torch.zeros(3), value=value)["value"]
    rows = torch.randint(shape[0], (4,), generator=torch.Generator().manual_seed(seed))
    assert (found.shape, found.dtype, found.nbytes) == (value.shape, dtype, value.nbytes)
    assert torch.equal(found.load(), value)
    assert torch.equal(found[rows], value[rows])
    assert torch.equal(found[1:3], value[1:3])
    last = shape[1] - 1
    assert torch.equal(found.select(1, last)[rows], value.select(1, last)[rows])
    assert torch.equal(found.select(0, 0).mT.load(), value[0].mT)
    columns = torch.randint(shape[2], (5,))
    assert torch.equal(found.select(0, 0).mT[columns], value[0].mT[columns])
    assert torch.equal(found.narrow(0, 0, 1).load(), value[:1])


@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_is_read_in_place(tmp_path, order):
    value = np.asarray(np.random.default_rng(0).normal(size=(7, 4)).astype("f4"), order=order)
    np.savez(tmp_path / "params.npz", W_enc=value, b=np.arange(3))
    found = open_tensors(tmp_path / "params.npz")
    assert torch.equal(found["W_enc"].load(), torch.from_numpy(value))
    assert torch.equal(found["W_enc"].mT[torch.tensor([3, 0])], torch.from_numpy(value).mT[[3, 0]])
    assert found["b"].load().tolist() == [0, 1, 2]


def test_what_cannot_be_read_in_place_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "small.npz", a=np.zeros(3))
    with pytest.raises(Unsupported, match="compressed"):
        open_tensors(tmp_path / "small.npz")
    np.savez(tmp_path / "pickle.npz", a=np.array([{}], dtype=object))
    with pytest.raises(Unsupported, match="numbers of type object"):
        open_tensors(tmp_path / "pickle.npz")
    (tmp_path / "weights.bin").touch()
    with pytest.raises(Unsupported, match=r"neither \.safetensors nor \.npz"):
        open_tensors(tmp_path / "weights.bin")


def header(**entry) -> bytes:
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tensors at all",
        (1 << 62).to_bytes(8, "little") + b"{}",
        header() + bytes(7),
        header() + bytes(9),
        header(shape=[3]) + bytes(8),
        header(shape=[-2]) + bytes(8),
        header(data_offsets=[-8, 0]) + bytes(8),
        header(shape="x") + bytes(8),
        header()[:-3] + bytes(11),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(BadArtefact, match=r"bad\.safetensors") as caught:
        open_tensors(tmp_path / "bad.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_are_none_are_refused_where_they_are_read(tmp_path, bad, dtype):
    value = torch.randn(6, 4).to(dtype)
    value[3, 2] = bad
    found = stored(tmp_path, w_dec=value)["w_dec"]
    assert torch.equal(found[torch.tensor([0, 5])], value[[0, 5]])
    for read in (found.load, lambda: found[3:5], lambda: found[torch.tensor([3])]):
        with pytest.raises(BadArtefact, match=r"tensor w_dec of .* not finite"):
            read()


def test_a_missing_file(tmp_path):
    with pytest.raises(BadArtefact, match="cannot be read"):
        open_tensors(tmp_path / "none.safetensors")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["jumprelu", "topk"])
def test_a_coder_in_a_file_is_the_coder_in_memory(build, tmp_path, turned, dtype, kind):
    coder = build(TopK(5) if kind == "topk" else None)
    weights = {name: value.to(dtype) for name, value in coder.weights().items()}
    coder = Transcoder(coder.reads[0], coder.writes[0], coder.activation, weights).requires_grad_(False)
    laid = {name: value.mT.contiguous() if turned and name == "w_enc" else value for name, value in weights.items()}
    found = stored(tmp_path, **laid)
    lazy = weights | {"w_enc": found["w_enc"].mT if turned else found["w_enc"], "w_dec": found["w_dec"]}
    twin = Transcoder(Site("mlp_in", 0), Site("mlp_out", 0), coder.activation, lazy).requires_grad_(False)
    x, some = torch.randn(30, 8), torch.tensor([7, 0, 39])
    assert torch.equal(twin.encode(x).indices, coder.encode(x).indices)
    assert torch.allclose(twin(x), coder(x), atol=1e-6)
    assert torch.equal(twin.encoder_rows(some), coder.encoder_rows(some))
    assert torch.equal(twin.decoder_rows(some), coder.decoder_rows(some))
    assert isinstance(twin.w_enc, Stored)
    twin.load()
    assert torch.equal(twin(x), coder(x))
    assert not isinstance(twin.w_enc, Stored)
