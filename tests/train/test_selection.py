"""The engine against dense autograd, for every selector, every output and every kernel; finite differences too."""

import pytest
import torch
from torch import Tensor

import glassworks.train.selection as module
from glassworks.coders import BatchTopK
from glassworks.train.selection import (
    Above,
    Everything,
    Largest,
    LargestOfBatch,
    LastCut,
    Selected,
    Selector,
    encode,
)

TOKENS, D, D_OUT, LATENTS, K = 23, 6, 5, 70, 4


@pytest.fixture(params=["torch", "numba"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GLASSWORKS_KERNELS", request.param)
    return request.param


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {
        "x": (TOKENS, D), "w_enc": (LATENTS, D), "b_enc": (LATENTS,), "centre": (D,), "w_dec": (LATENTS, D_OUT),
        "theta": (LATENTS,),
    }  # fmt: skip
    made = {name: torch.randn(*shape, dtype=torch.float64) for name, shape in shapes.items()}
    made["theta"] = made["theta"] * 0.05 + 6.0
    return {name: value.requires_grad_() for name, value in made.items()}


def dense_twin(inputs: dict[str, Tensor], selector: Selector) -> tuple[Selected, Tensor]:
    """The whole matrix, and which entries the selector should keep."""
    pre = (inputs["x"] - inputs["centre"]) @ inputs["w_enc"].T + inputs["b_enc"]
    match selector:
        case Largest(k=k, among=among):
            seen = pre if among is None else pre.masked_fill(~among, -torch.inf)
            kept = torch.zeros_like(pre, dtype=torch.bool).scatter(1, seen.topk(k).indices, True)
        case LargestOfBatch(k=k):
            kept = BatchTopK(k).active(pre)
        case Above(floor=floor):
            kept = pre > floor
        case _:
            kept = torch.ones_like(pre, dtype=torch.bool)
    return Selected(pre), kept


def selectors(theta: Tensor) -> dict[str, Selector]:
    among = torch.arange(LATENTS) % 3 == 0
    return {
        "largest": Largest(K),
        "largest among": Largest(3, among),
        "largest of batch": LargestOfBatch(K),
        "largest of batch, part of one": LargestOfBatch(2.6),
        "largest of batch, cut too high": LargestOfBatch(K, LastCut(1e9)),
        "largest of batch, more than are positive": LargestOfBatch(LATENTS),
        "above": Above(theta.detach() - 0.2),
        "above, dense": Above(theta.detach() - 9),
        "everything": Everything(),
    }


NAMES = sorted(selectors(torch.zeros(LATENTS)))


def every_output(selected: Selected, inputs: dict[str, Tensor], kept: Tensor | float) -> dict[str, Tensor]:
    """One number from each thing that selected can do."""
    theta, w_dec = selected.of_latent(inputs["theta"]), inputs["w_dec"]
    values = selected.pre * (selected.pre > theta - 1) * kept
    weights = torch.linspace(-1, 2, D_OUT, dtype=torch.float64)
    prefixes = selected.decode_prefixes(values, w_dec, (7, 40, LATENTS))
    return {
        "decode": (selected.decode(values.relu(), w_dec) * weights).square().sum(),
        "prefixes": (prefixes * weights).square().sum(),
        "one prefix": (selected.decode_prefixes(values, w_dec, (12,)) * weights).square().sum(),
        "of latent": (values * theta).sum(),
        "by token": (selected.by_token(values) * torch.linspace(1, 2, TOKENS, dtype=torch.float64)).square().sum(),
        "by latent": (selected.by_latent(values) * inputs["theta"]).square().sum(),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_output_and_gradient_is_the_dense_one(name: str, inputs: dict[str, Tensor]) -> None:
    selector = selectors(inputs["theta"])[name]
    twin, kept = dense_twin(inputs, selector)
    given = {key: inputs[key] for key in ("x", "w_enc", "b_enc", "centre")}
    (selected,) = encode(given["x"], given["w_enc"], given["b_enc"], [selector], centre=given["centre"])
    assert (selected.pattern is None) == (name in ("above, dense", "everything"))
    found = every_output(selected, inputs, kept if selected.pattern is None else 1.0)
    wanted = every_output(twin, inputs, kept)
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=1e-9, atol=1e-9, msg=key)
        ours, theirs = (
            torch.autograd.grad(each[key], list(inputs.values()), retain_graph=True, materialize_grads=True)
            for each in (found, wanted)
        )
        for of, our, their in zip(inputs, ours, theirs, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-9, atol=1e-9, msg=f"gradient of {key} to {of}")


@pytest.mark.parametrize("name", ["largest", "largest of batch", "above", "everything"])
def test_finite_differences(name: str, inputs: dict[str, Tensor]) -> None:
    selector = selectors(inputs["theta"])[name]

    def loss(x: Tensor, w_enc: Tensor, b_enc: Tensor, centre: Tensor, w_dec: Tensor) -> Tensor:
        (selected,) = encode(x, w_enc, b_enc, [selector], centre=centre)
        return selected.decode_prefixes(
            selected.pre * selected.of_latent(inputs["theta"].detach()), w_dec, (20, LATENTS)
        )

    points = [inputs[key] for key in ("x", "w_enc", "b_enc", "centre", "w_dec")]
    assert torch.autograd.gradcheck(loss, points, eps=1e-6, atol=1e-5, rtol=1e-5, fast_mode=True)


def test_several_selectors_share_one_product(inputs: dict[str, Tensor]) -> None:
    named = selectors(inputs["theta"])
    together = encode(inputs["x"], inputs["w_enc"], inputs["b_enc"], list(named.values()), centre=inputs["centre"])
    loss = torch.stack([selected.pre.square().sum() for selected in together]).sum()
    apart = torch.zeros((), dtype=torch.float64)
    for selected, (name, selector) in zip(together, selectors(inputs["theta"]).items(), strict=True):
        (alone,) = encode(inputs["x"], inputs["w_enc"], inputs["b_enc"], [selector], centre=inputs["centre"])
        assert torch.equal(selected.pre, alone.pre), name
        apart = apart + alone.pre.square().sum()
    for key in ("x", "w_enc", "b_enc", "centre"):
        ours, theirs = (torch.autograd.grad(each, inputs[key], retain_graph=True)[0] for each in (loss, apart))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_latents_are_what_is_positive(inputs: dict[str, Tensor]) -> None:
    for selector in (Largest(K), Everything()):
        (selected,) = encode(inputs["x"], inputs["w_enc"], inputs["b_enc"], [selector])
        latents = selected.latents(selected.pre)
        pre = inputs["x"] @ inputs["w_enc"].T + inputs["b_enc"]
        kept = pre.topk(K).values[:, -1:] if isinstance(selector, Largest) else torch.tensor(0.0)
        torch.testing.assert_close(latents.dense(), torch.where(pre >= kept, pre, 0.0).relu().detach())
        assert not latents.values.requires_grad


@pytest.mark.parametrize("threads", [1, 2])
def test_runs_give_the_same_bits(threads: int, kernels: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (_step() for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def _step(tokens: int = 300, latents: int = 900) -> list[Tensor]:
    torch.manual_seed(1)
    x, w_enc, w_dec = torch.randn(tokens, 32), torch.randn(latents, 32), torch.randn(latents, 32)
    parameters = [each.requires_grad_() for each in (w_enc, torch.zeros(latents), w_dec)]
    floor = torch.full((latents,), 14.0)
    cut = LastCut()
    found: list[Tensor] = []
    for selector in (Largest(8), LargestOfBatch(8, cut), LargestOfBatch(8, cut), Above(floor)):
        (selected,) = encode(x, parameters[0], parameters[1], [selector])
        assert selected.pattern is not None
        loss = (
            (selected.decode(selected.pre.relu() * selected.of_latent(parameters[1] + 1), parameters[2]) - x)
            .square()
            .sum()
        )
        found += [loss.detach(), *torch.autograd.grad(loss, parameters)]
    return found


def test_bfloat16_chooses_and_float32_computes() -> None:
    torch.manual_seed(0)
    x, w_enc, b_enc = torch.randn(64, 32), torch.randn(500, 32) / 6, torch.randn(500) / 10
    pre = x @ w_enc.T + b_enc
    for selector, kept in _choices(pre).values():
        (selected,) = encode(x, w_enc.requires_grad_(), b_enc, [selector], products=torch.bfloat16)
        assert selected.pattern is not None
        places = selected.pattern.positions, selected.pattern.indices
        torch.testing.assert_close(selected.pre, pre[places], rtol=1e-5, atol=1e-5)
        assert kept[places].float().mean() > 0.97
        assert len(selected.pre) == pytest.approx(int(kept.sum()), rel=0.03)
        gradient = torch.autograd.grad(selected.pre.square().sum(), w_enc)[0]
        expected = torch.zeros_like(pre).index_put(places, 2 * selected.pre.detach()).T @ x
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def _choices(pre: Tensor) -> dict[str, tuple[Selector, Tensor]]:
    floor = torch.linspace(1.0, 3.0, pre.shape[1])
    top = torch.zeros_like(pre, dtype=torch.bool).scatter(1, pre.topk(8).indices, True)
    return {
        "largest": (Largest(8), top),
        "batch": (LargestOfBatch(8), BatchTopK(8).active(pre)),
        "above": (Above(floor, 0.5), pre > floor),
    }


def test_a_remembered_cut_changes_nothing() -> None:
    torch.manual_seed(0)
    cut, w_enc, b_enc = LastCut(), torch.randn(400, 16), torch.zeros(400)
    for scale in (1.0, 1.1, 0.1, 30.0, 1.0):
        x = torch.randn(200, 16) * scale
        ours, cold = (encode(x, w_enc, b_enc, [LargestOfBatch(5, each)])[0] for each in (cut, LastCut()))
        assert torch.equal(ours.pre, cold.pre)
        assert len(ours.pre) == 1000


def test_rows_are_taken_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, w_enc, b_enc = torch.randn(150, 16), torch.randn(100, 16), torch.zeros(100)
    named = selectors(torch.full((100,), 9.0))
    named = {name: selector for name, selector in named.items() if name not in ("largest among", "everything")}
    whole = encode(x, w_enc, b_enc, list(named.values()))
    monkeypatch.setattr(module, "BLOCK", 1)
    monkeypatch.setattr(module, "LEAST", 7)
    named = {name: selector for name, selector in selectors(torch.full((100,), 9.0)).items() if name in named}
    parts = encode(x, w_enc, b_enc, list(named.values()))
    for name, one, other in zip(named, whole, parts, strict=True):
        torch.testing.assert_close(one.pre, other.pre, msg=name)
