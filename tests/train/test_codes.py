"""The engine against dense autograd, for every touch, every output and every kernel; finite differences too."""

import pytest
import torch
from torch import Tensor

import glassworks.train.codes as module
from glassworks.coders import BatchTopK
from glassworks.train.codes import Codes, Dense, Sparse, encode
from glassworks.train.touches import Above, Everything, Largest, LargestOfBatch, Touch, Warm

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
        "theta": (LATENTS,), "scale": (TOKENS,),
    }  # fmt: skip
    made = {name: torch.randn(*shape, dtype=torch.float64) for name, shape in shapes.items()}
    made["theta"] = made["theta"] * 0.05 + 6.0
    return {name: value.requires_grad_() for name, value in made.items()}


def dense_twin(inputs: dict[str, Tensor], touch: Touch) -> tuple[Codes, Tensor]:
    """The whole matrix, and which entries the touch should keep."""
    pre = (inputs["x"] - inputs["centre"]) @ inputs["w_enc"].T + inputs["b_enc"]
    match touch:
        case Largest(k=k, among=among):
            seen = pre if among is None else pre.masked_fill(~among, -torch.inf)
            kept = torch.zeros_like(pre, dtype=torch.bool).scatter(1, seen.topk(k).indices, True)
        case LargestOfBatch(k=k):
            kept = BatchTopK(k).active(pre)
        case Above(floor=floor):
            kept = pre > floor
        case _:
            kept = torch.ones_like(pre, dtype=torch.bool)
    return Dense(pre), kept


def touches(theta: Tensor) -> dict[str, Touch]:
    among = torch.arange(LATENTS) % 3 == 0
    return {
        "largest": Largest(K),
        "largest among": Largest(3, among),
        "largest of batch": LargestOfBatch(K),
        "largest of batch, part of one": LargestOfBatch(2.6),
        "largest of batch, cut too high": LargestOfBatch(K, Warm(1e9)),
        "largest of batch, more than are positive": LargestOfBatch(LATENTS),
        "above": Above(theta.detach() - 0.2),
        "above, dense": Above(theta.detach() - 9),
        "everything": Everything(),
    }


NAMES = sorted(touches(torch.zeros(LATENTS)))


def every_output(codes: Codes, inputs: dict[str, Tensor], kept: Tensor | float) -> dict[str, Tensor]:
    """One number from each thing that codes can do."""
    theta, scale, w_dec = codes.of_latent(inputs["theta"]), codes.of_token(inputs["scale"]), inputs["w_dec"]
    values = codes.pre * (codes.pre > theta - 1) * kept
    weights = torch.linspace(-1, 2, D_OUT, dtype=torch.float64)
    prefixes = codes.decode_prefixes(values, w_dec, (7, 40, LATENTS))
    return {
        "decode": (codes.decode(values.relu(), w_dec) * weights).square().sum(),
        "prefixes": (prefixes * weights).square().sum(),
        "one prefix": (codes.decode_prefixes(values, w_dec, (12,)) * weights).square().sum(),
        "below": (values * codes.below(31)).square().sum(),
        "of latent": (values * theta).sum(),
        "of token": (values * scale).square().sum(),
        "by token": (codes.by_token(values) * inputs["scale"]).square().sum(),
        "by latent": (codes.by_latent(values) * inputs["theta"]).square().sum(),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_output_and_gradient_is_the_dense_one(name: str, inputs: dict[str, Tensor]) -> None:
    touch = touches(inputs["theta"])[name]
    twin, kept = dense_twin(inputs, touch)
    asked = {key: inputs[key] for key in ("x", "w_enc", "b_enc", "centre")}
    (codes,) = encode(asked["x"], asked["w_enc"], asked["b_enc"], [touch], centre=asked["centre"])
    assert isinstance(codes, Dense) == (name in ("above, dense", "everything"))
    found = every_output(codes, inputs, kept if isinstance(codes, Dense) else 1.0)
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
    touch = touches(inputs["theta"])[name]

    def loss(x: Tensor, w_enc: Tensor, b_enc: Tensor, centre: Tensor, w_dec: Tensor) -> Tensor:
        (codes,) = encode(x, w_enc, b_enc, [touch], centre=centre)
        return codes.decode_prefixes(codes.pre * codes.of_latent(inputs["theta"].detach()), w_dec, (20, LATENTS))

    points = [inputs[key] for key in ("x", "w_enc", "b_enc", "centre", "w_dec")]
    assert torch.autograd.gradcheck(loss, points, eps=1e-6, atol=1e-5, rtol=1e-5, fast_mode=True)


def test_several_touches_share_one_product(inputs: dict[str, Tensor]) -> None:
    named = touches(inputs["theta"])
    together = encode(inputs["x"], inputs["w_enc"], inputs["b_enc"], list(named.values()), centre=inputs["centre"])
    loss = torch.stack([codes.pre.square().sum() for codes in together]).sum()
    apart = torch.zeros((), dtype=torch.float64)
    for codes, (name, touch) in zip(together, touches(inputs["theta"]).items(), strict=True):
        (alone,) = encode(inputs["x"], inputs["w_enc"], inputs["b_enc"], [touch], centre=inputs["centre"])
        assert torch.equal(codes.pre, alone.pre), name
        apart = apart + alone.pre.square().sum()
    for key in ("x", "w_enc", "b_enc", "centre"):
        ours, theirs = (torch.autograd.grad(each, inputs[key], retain_graph=True)[0] for each in (loss, apart))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_latents_are_what_is_positive(inputs: dict[str, Tensor]) -> None:
    for touch in (Largest(K), Everything()):
        (codes,) = encode(inputs["x"], inputs["w_enc"], inputs["b_enc"], [touch])
        latents = codes.latents(codes.pre)
        pre = inputs["x"] @ inputs["w_enc"].T + inputs["b_enc"]
        kept = pre.topk(K).values[:, -1:] if isinstance(touch, Largest) else torch.tensor(0.0)
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
    warm = Warm()
    found: list[Tensor] = []
    for touch in (Largest(8), LargestOfBatch(8, warm), LargestOfBatch(8, warm), Above(floor)):
        (codes,) = encode(x, parameters[0], parameters[1], [touch])
        assert isinstance(codes, Sparse)
        loss = (codes.decode(codes.pre.relu() * codes.of_latent(parameters[1] + 1), parameters[2]) - x).square().sum()
        found += [loss.detach(), *torch.autograd.grad(loss, parameters)]
    return found


def test_bfloat16_chooses_and_float32_computes() -> None:
    torch.manual_seed(0)
    x, w_enc, b_enc = torch.randn(64, 32), torch.randn(500, 32) / 6, torch.randn(500) / 10
    pre = x @ w_enc.T + b_enc
    for touch, kept in _choices(pre).values():
        (codes,) = encode(x, w_enc.requires_grad_(), b_enc, [touch], products=torch.bfloat16)
        assert isinstance(codes, Sparse)
        places = codes.pattern.positions, codes.pattern.indices
        torch.testing.assert_close(codes.pre, pre[places], rtol=1e-5, atol=1e-5)
        assert kept[places].float().mean() > 0.97
        assert len(codes.pre) == pytest.approx(int(kept.sum()), rel=0.03)
        gradient = torch.autograd.grad(codes.pre.square().sum(), w_enc)[0]
        expected = torch.zeros_like(pre).index_put(places, 2 * codes.pre.detach()).T @ x
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def _choices(pre: Tensor) -> dict[str, tuple[Touch, Tensor]]:
    floor = torch.linspace(1.0, 3.0, pre.shape[1])
    top = torch.zeros_like(pre, dtype=torch.bool).scatter(1, pre.topk(8).indices, True)
    return {
        "largest": (Largest(8), top),
        "batch": (LargestOfBatch(8), BatchTopK(8).active(pre)),
        "above": (Above(floor, 0.5), pre > floor),
    }


def test_a_warm_cut_changes_nothing() -> None:
    torch.manual_seed(0)
    warm, w_enc, b_enc = Warm(), torch.randn(400, 16), torch.zeros(400)
    for scale in (1.0, 1.1, 0.1, 30.0, 1.0):
        x = torch.randn(200, 16) * scale
        ours, cold = (encode(x, w_enc, b_enc, [LargestOfBatch(5, each)])[0] for each in (warm, Warm()))
        assert torch.equal(ours.pre, cold.pre)
        assert len(ours.pre) == 1000


def test_rows_are_taken_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, w_enc, b_enc = torch.randn(150, 16), torch.randn(100, 16), torch.zeros(100)
    named = touches(torch.full((100,), 9.0))
    named = {name: touch for name, touch in named.items() if name not in ("largest among", "everything")}
    whole = encode(x, w_enc, b_enc, list(named.values()))
    monkeypatch.setattr(module, "BLOCK", 1)
    monkeypatch.setattr(module, "LEAST", 7)
    named = {name: touch for name, touch in touches(torch.full((100,), 9.0)).items() if name in named}
    parts = encode(x, w_enc, b_enc, list(named.values()))
    for name, one, other in zip(named, whole, parts, strict=True):
        torch.testing.assert_close(one.pre, other.pre, msg=name)
