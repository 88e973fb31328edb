"""Gates: what is on, and the gradients that the papers define, against their expressions on given numbers."""

import pytest
import torch

from glassworks.train import BatchTopK, CoderPart, Gated, JumpReLU, Ramp, Rectifier, TopK
from glassworks.train.gates import Jump
from glassworks.train.selection import Selected, encode

Z = torch.tensor([[0.30, 0.54, 0.46, 0.9], [0.499, -1.0, 0.55, 0.451]], dtype=torch.float64)
T = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64)
WIDTH = 0.1


def part(gate, width: int = 6, d: int = 4) -> CoderPart:
    g = torch.Generator().manual_seed(0)
    weights = {
        "w_enc": torch.randn(width, d, generator=g),
        "b_enc": torch.randn(width, generator=g) * 0.1,
        "w_dec": torch.randn(width, d, generator=g),
    }
    return CoderPart((), (), weights, gate.parameters(torch.full((width,), 0.3)), 100)


def test_jumprelu_has_the_gradients_of_the_paper():
    z, t = Z.clone().requires_grad_(), T.clone().requires_grad_()
    out, _ = Jump.apply(z, t[None], WIDTH, False)
    weights = torch.arange(1.0, 9.0, dtype=torch.float64).reshape(2, 4)
    (out * weights).sum().backward()
    on, window = (Z > T).double(), ((Z - T).abs() / WIDTH < 0.5).double()
    assert torch.equal(out, Z * on)
    assert torch.equal(z.grad, weights * on)  # dJ/dz = H(z - t)
    assert torch.allclose(t.grad, (weights * -(T / WIDTH) * window).sum(0))  # dJ/dt = -(t/e) K((z - t)/e)
    assert window.sum() == 4


@pytest.mark.parametrize("everything", [False, True])
def test_the_step_has_the_gradients_of_the_paper(everything):
    z, t = Z.clone().requires_grad_(), T.clone().requires_grad_()
    Jump.apply(z, t[None], WIDTH, everything)[1].sum().backward()
    slope = ((Z - T).abs() / WIDTH < 0.5).double() / WIDTH
    assert torch.allclose(t.grad, -slope.sum(0))  # dH/dt = -(1/e) K((z - t)/e)
    assert torch.allclose(z.grad, slope) if everything else z.grad is None


GATES = [Rectifier(), TopK(Ramp(2)), BatchTopK(Ramp(2)), JumpReLU(0.3, 0.2), Gated()]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: type(gate).__name__)
def test_sparse_and_dense_are_one(gate):
    made, x = part(gate), torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    (selected,) = encode(x, made.w_enc, made.b_enc, [gate.selector(made, 0)])
    values, on = gate.open(made, selected)
    pre = x @ made.w_enc.T + made.b_enc
    selected_here = torch.zeros_like(pre, dtype=torch.bool)
    found = selected.latents(values + 1e-9)
    selected_here[found.positions, found.indices] = True
    dense, steps = gate.open(made, Selected(torch.where(selected_here, pre, -9.0)))
    assert torch.allclose(selected.latents(values).dense(), dense.detach(), atol=1e-6)
    assert torch.allclose(selected.by_latent(on), steps.sum(0))


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: type(gate).__name__)
def test_the_trained_coder_has_the_gates_choice(gate):
    made, x = part(gate), torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    (selected,) = encode(x, made.w_enc, made.b_enc, [gate.selector(made, 0)])
    made.threshold.copy_(selected.pre.min() - 1e-6)
    values, _ = gate.open(made, selected)
    w_enc, b_enc, activation = gate.encoder(made)
    pre = x @ w_enc.T + b_enc.detach()
    assert torch.allclose(selected.latents(values).dense(), (pre * activation.active(pre)).detach(), atol=1e-6)


def test_k_falls_over_the_steps():
    gate, made = TopK(Ramp(2, 6, 10)), part(TopK(Ramp(2)))
    assert [gate.selector(made, step).k for step in (0, 5, 10, 99)] == [6, 4, 2, 2]
