"""Coders against the formula in a line, and what they refuse."""

import pytest
import torch

from glassworks.coders import (
    Affine,
    BatchTopK,
    JumpReLU,
    Latents,
    ReLU,
    TopK,
    Transcoder,
    fold,
    unit_decoder,
)
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.sites import Site

VALUES = [ReLU(), TopK(5), BatchTopK(5), JumpReLU(torch.full((40,), 0.7))]


def formula(coder: Transcoder, x: torch.Tensor) -> torch.Tensor:
    """One row at a time, latent by latent, in float64."""
    w = {name: value.double() for name, value in coder.weights().items()}
    rows = []
    gates = coder.activation.active(coder.preactivations(x)).reshape(-1, coder.d_latent)
    for row, on in zip(x.reshape(-1, coder.d_in).double(), gates, strict=True):
        y = w["b_dec"] + (row @ w["w_skip"] if "w_skip" in w else 0.0)
        for latent in on.nonzero()[:, 0].tolist():
            y = y + (w["w_enc"][latent] @ row + w["b_enc"][latent]) * w["w_dec"][latent]
        rows.append(y)
    return torch.stack(rows).reshape(*x.shape[:-1], coder.d_out)


@pytest.mark.parametrize("value", VALUES, ids=lambda each: each.kind)
@pytest.mark.parametrize("skip", [False, True])
def test_forward_is_the_formula(build, value, skip: bool):
    coder, x = build(value, skip), torch.randn(2, 7, 8)
    assert torch.allclose(coder(x).double(), formula(coder, x), atol=1e-5)


def test_latents_round_trip():
    dense = torch.relu(torch.randn(2, 3, 9))
    latents = Latents.from_dense(dense)
    assert torch.equal(latents.dense(), dense)
    assert latents.shape == (2, 3, 9)
    assert latents.counts.tolist() == (dense > 0).sum(-1).flatten().tolist()
    indices, values = latents.at(4)
    assert torch.equal(dense.reshape(6, 9)[4][indices], values)


def test_sparse_and_dense_decoding_agree(build):
    coder = build(skip=False)
    latents = coder.encode(torch.randn(11, 8))
    dense = latents.dense() @ coder.w_dec + coder.b_dec
    assert torch.allclose(coder.decode(latents), dense, atol=1e-5)


def test_tokens_without_active_latents_give_the_bias(build):
    coder = build(JumpReLU(torch.full((40,), 1e9)), skip=False)
    assert torch.equal(coder(torch.randn(3, 8)), coder.bias().expand(3, 6))


def test_rows_are_the_linear_map(build):
    coder, x, some = build(), torch.randn(5, 8), torch.tensor([3, 0, 39])
    read = x @ coder.encoder_rows(some).T + coder.encoder_bias(some)
    assert torch.allclose(read, coder.preactivations(x)[:, some], atol=1e-5)
    one = Latents(torch.zeros(1, dtype=torch.long), torch.tensor([3]), torch.ones(1), (1, 40))
    assert torch.allclose(coder.decode(one) - coder.bias(), coder.decoder_rows(torch.tensor([3])), atol=1e-6)


def test_half_precision_weights_are_accumulated_in_float32(build):
    coder = build(JumpReLU(torch.full((40,), 0.7)))
    half = Transcoder(
        coder.reads[0], coder.writes[0], coder.activation, {n: w.bfloat16() for n, w in coder.weights().items()}
    ).requires_grad_(False)
    x = torch.randn(9, 8)
    assert half(x).dtype == torch.float32
    assert torch.allclose(half(x).double(), formula(half, x), atol=1e-5)
    assert half.decoder_rows(torch.tensor([1])).dtype == torch.float32


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(3)
    sizes = {"w_enc": (6, 4), "b_enc": (6,), "w_dec": (6, 3), "b_dec": (3,)}
    weights = {name: torch.randn(size, dtype=torch.float64) for name, size in sizes.items()}
    coder = Transcoder(Site("mlp_in", 0), Site("mlp_out", 0), ReLU(), weights)
    x = torch.randn(5, 4, dtype=torch.float64)
    names = list(weights)

    def run(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(coder, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, tuple(getattr(coder, name) for name in names))


def test_the_activation_moves_with_its_coder(build):
    coder = build().double()
    assert coder.activation.threshold.dtype == torch.float64
    assert "threshold" in coder.state_dict()


@pytest.mark.parametrize("skip", [False, True])
def test_folding_is_exact(build, skip: bool):
    coder = build(skip=skip).double()
    read, write = Affine(torch.randn(8).double(), 0.37), Affine(torch.randn(6).double(), 2.9)
    folded, x = fold(coder, read, write), torch.randn(50, 8).double()
    assert torch.equal(folded.encode(x).indices, coder.encode(read(x)).indices)
    assert torch.allclose(folded.encode(x).values, coder.encode(read(x)).values, rtol=1e-12)
    assert torch.allclose(folded(x), write.undo(coder(read(x))), rtol=1e-11, atol=1e-12)


def test_unit_decoder_changes_no_output(build):
    coder = build().double()
    unit, x = unit_decoder(coder), torch.randn(50, 8).double()
    assert torch.allclose(unit.w_dec.norm(dim=1), torch.ones(40).double())
    assert torch.allclose(unit(x), coder(x), rtol=1e-11, atol=1e-12)
    with pytest.raises(Unsupported, match="topk"):
        unit_decoder(build(TopK(2)))


def test_a_site_it_does_not_write_is_refused(build):
    with pytest.raises(NotFound, match=r"writes at mlp_out\.0"):
        build().bias(Site("mlp_out", 1))


def test_a_wrong_width_is_refused(build):
    with pytest.raises(BadInput, match="reads width 8"):
        build().preactivations(torch.randn(2, 9))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("b_enc", torch.zeros(3), "must be"),
        ("w_skip", torch.zeros(6, 8), "must be"),
        ("w_enc", torch.zeros(3), "matrices"),
        ("extra", torch.zeros(3), "perhaps w_skip"),
    ],
)
def test_weights_that_do_not_fit_are_refused(build, name, value, says):
    coder = build()
    with pytest.raises(BadInput, match=says):
        Transcoder(coder.reads[0], coder.writes[0], ReLU(), coder.weights() | {name: value})


def test_thresholds_that_do_not_fit_are_refused(build):
    with pytest.raises(BadInput, match="threshold has shape"):
        build(JumpReLU(torch.zeros(39)))
