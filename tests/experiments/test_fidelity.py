"""Fidelity against closed forms, and numpy on the whole."""

import numpy as np
import pytest
import torch

from glassworks.coders import Crosscoder, CrossLayer, JumpReLU, Latents, PerToken, ReLU, TopK, Transcoder
from glassworks.errors import BadInput
from glassworks.experiments import Meter, fidelity, strata
from glassworks.experiments.fidelity import DECADES
from glassworks.sites import Site

READ, WRITE = Site("mlp_in", 0), Site("mlp_out", 0)


def identity(width: int, threshold: float = 0.0, bias: float = 0.0) -> Transcoder:
    """Passes on what is above the threshold: exact for positive rows."""
    eye = torch.eye(width)
    weights = {"w_enc": eye, "b_enc": torch.zeros(width), "w_dec": eye, "b_dec": torch.full((width,), bias)}
    return Transcoder(READ, WRITE, JumpReLU(torch.full((width,), threshold)), weights).requires_grad_(False)


def between(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    return {READ.name: x, WRITE.name: y}


def silent(count: int) -> Latents:
    return Latents.from_dense(torch.zeros(count, 3))


def test_a_perfect_coder_leaves_nothing():
    rows = torch.rand(500, 7) + 0.1
    measured = fidelity(identity(7), between(rows, rows), batch=64)
    assert (measured.fvu, measured.median, measured.explained) == (0.0, 0.0, 1.0)
    assert measured.cosine == pytest.approx(1.0)
    assert (measured.l0, measured.dead, measured.dense, measured.tokens) == (7.0, 0.0, 1.0, 500)


def test_the_mean_leaves_everything():
    rows = torch.randn(500, 7) + 3.0
    coder = identity(7, threshold=1e9)
    coder.b_dec.copy_(rows.double().mean(0))
    measured = fidelity(coder, between(rows, rows), batch=64)
    assert measured.fvu == pytest.approx(1.0, abs=1e-6)
    assert measured.median == pytest.approx(1.0, rel=0.02)
    assert (measured.l0, measured.dead) == (0.0, 1.0)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("batch", [1, 97, 5000])
def test_streaming_is_the_formula_on_the_whole(offset: float, batch: int):
    y = torch.randn(700, 5, dtype=torch.float64) + offset
    guess = y + 0.3 * torch.randn(700, 5, dtype=torch.float64)
    meter = Meter(["w"], 3)
    for start in range(0, 700, batch):
        part = slice(start, start + batch)
        meter.add({"w": y[part]}, {"w": guess[part]}, silent(len(y[part])))
    whole, rebuilt = y.numpy(), guess.numpy()
    expected = np.square(whole - rebuilt).sum() / np.square(whole - whole.mean(0)).sum()
    cosine = (whole * rebuilt).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(rebuilt, axis=1)
    measured = meter.result()
    assert measured.fvu == pytest.approx(expected, rel=1e-9)
    assert measured.cosine == pytest.approx(cosine.mean(), rel=1e-9)
    assert meter.mean("w").numpy() == pytest.approx(whole.mean(0), rel=1e-12)


def test_the_median_is_that_of_tokens_and_outliers_do_not_move_it():
    y = torch.randn(2001, 5, dtype=torch.float64)
    guess = y + 0.3 * torch.randn(2001, 5, dtype=torch.float64)
    guess[:20] += 100.0
    meter = Meter(["w"], 3, {"w": y.mean(0)})
    meter.add({"w": y}, {"w": guess}, silent(2001))
    shares = ((y - guess).square().sum(1) / (y - y.mean(0)).square().sum(1)).numpy()
    assert meter.result().median == pytest.approx(np.median(shares), rel=0.02)
    assert meter.result().fvu > 10 * meter.result().median


@pytest.mark.parametrize(("scale", "offset"), [(7.0, 2.0), (1e-6, 0.0), (1.0, 1e5)])
def test_scale_and_offset_change_nothing(scale: float, offset: float):
    rows = torch.randn(300, 4).double()
    guess = rows + 0.1 * torch.randn(300, 4).double()
    plain, moved = Meter(["w"], 3), Meter(["w"], 3)
    plain.add({"w": rows}, {"w": guess}, silent(300))
    moved.add({"w": rows * scale + offset}, {"w": guess * scale + offset}, silent(300))
    assert moved.result().fvu == pytest.approx(plain.result().fvu, rel=1e-6)
    assert moved.result().median == pytest.approx(plain.result().median, rel=0.02)
    assert 0.0 <= moved.result().explained <= 1.0


def test_l0_dead_dense_and_histogram_count_what_is_on():
    rows = torch.zeros(100, 4)
    rows[:, 0], rows[:10, 1], rows[:1, 2] = 1.0, 2.0, 3.0
    measured = fidelity(identity(4), between(rows, rows), batch=7)
    assert measured.l0 == pytest.approx(1.11)
    assert measured.dead == 0.25
    assert measured.dense == 0.25  # more than a tenth: 10 of 100 is not
    bars = np.histogram(np.log10([1.0, 0.1, 0.01]), bins=4 * (DECADES[1] - DECADES[0]), range=DECADES)[0]
    assert sum(measured.histogram) == 3
    assert measured.histogram == bars.tolist()


def test_the_skip_path_counts():
    eye, zero = torch.eye(3), torch.zeros(3)
    weights = {"w_enc": -eye, "b_enc": zero - 100.0, "w_dec": eye, "b_dec": zero, "w_skip": 2.0 * eye}
    coder = Transcoder(READ, WRITE, ReLU(), weights).requires_grad_(False)
    rows = torch.randn(50, 3)
    assert fidelity(coder, between(rows, 2.0 * rows)).fvu == 0.0


def test_constant_rows_have_no_fvu():
    with pytest.raises(BadInput, match="do not vary"):
        fidelity(identity(3), between(torch.ones(5, 3), torch.ones(5, 3)))


def test_what_is_missing_or_does_not_fit_is_said():
    with pytest.raises(BadInput, match=r"activations at mlp_out\.0 are missing; there are mlp_in\.0"):
        fidelity(identity(3), {READ.name: torch.ones(5, 3)})
    with pytest.raises(BadInput, match="one number for each of the 5 tokens"):
        fidelity(identity(3), between(torch.rand(5, 3), torch.rand(5, 3)), {"document": torch.zeros(4).long()})
    meter = Meter(["w"], 3)
    with pytest.raises(BadInput, match=r"shape \(2, 3\), what is rebuilt \(2, 4\)"):
        meter.add({"w": torch.ones(2, 3)}, {"w": torch.ones(2, 4)}, silent(2))


def joint(reads: list[Site], writes: list[Site], latents: int = 12, skip: bool = False) -> Crosscoder:
    weights = {"w_enc": torch.randn(latents, 5 * len(reads)), "b_enc": torch.randn(latents)}
    weights |= {f"w_dec.{site}": torch.randn(latents, 5) for site in writes}
    weights |= {f"b_dec.{site}": torch.randn(5) for site in writes}
    weights |= {f"w_skip.{site}": torch.randn(5, 5) for site in writes if skip}
    return Crosscoder(reads, writes, TopK(3), weights).requires_grad_(False)


def kinds() -> dict[str, CrossLayer | Crosscoder | PerToken]:
    ins, outs = [Site("mlp_in", n) for n in range(3)], [Site("mlp_out", n) for n in range(3)]
    inner = Transcoder(ins[0], outs[0], ReLU(), identity(5).weights()).requires_grad_(False)
    return {
        "clt": CrossLayer([joint([ins[n]], outs[n:], skip=n == 1) for n in range(3)]),
        "crosscoder": joint(ins, ins),
        "one to many": joint(ins[:1], outs, skip=True),
        "per token": PerToken(inner, "layer_norm"),
    }


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_kind_gives_what_its_own_forward_gives(kind: str):
    coder = kinds()[kind]
    values = {f"{each}.{n}": torch.randn(40, 5) for n in range(3) for each in ("mlp_in", "mlp_out")}
    single = isinstance(coder, PerToken)
    given = values["mlp_in.0"] if single else {site.name: values[site.name] for site in coder.reads}
    rebuilt = {coder.writes[0].name: coder(given)} if single else coder(given)
    shares = []
    for site in coder.writes:
        y = values[site.name].double().numpy()
        error = np.square(y - rebuilt[site.name].double().numpy()).sum()
        shares.append(error / np.square(y - y.mean(0)).sum())
    measured = fidelity(coder, values, batch=16)
    assert measured.fvu == pytest.approx(np.mean(shares), rel=1e-5)
    assert list(measured.sites.values()) == pytest.approx(shares, rel=1e-5)
    assert measured.l0 == pytest.approx(float(coder.encode(given).counts.float().mean()))


def test_strata_are_the_measure_on_part_of_the_tokens():
    rows = torch.randn(64, 4)
    tokens = torch.tensor([0] * 60 + [1] * 4)
    groups = strata(tokens, torch.arange(64) // 8, torch.arange(64) % 8)
    measured = fidelity(identity(4), between(rows, rows), groups)
    assert {name: each["tokens"] for name, each in measured.strata["position"].items()} == {
        "0": 8,
        "1": 8,
        "2-3": 16,
        "4-7": 32,
    }
    rare = measured.strata["frequency"]["1 to 10 %"]
    assert rare["tokens"] == 4
    error = (rows[60:] - rows[60:].relu()).square().sum()
    assert rare["fvu"] == pytest.approx(float(error / (rows[60:] - rows.mean(0)).square().sum()), rel=1e-5)


def test_intervals_are_wide_where_documents_differ():
    documents = torch.arange(400) // 10
    noise = torch.randn(400, 4)
    shared = torch.randn(40, 1)[documents].exp()
    widths = []
    for factor in (torch.ones(400, 1), shared):
        rows = torch.randn(400, 4)
        meter = Meter(["w"], 3)
        meter.add({"w": rows}, {"w": rows + 0.3 * noise * factor}, silent(400), {"document": documents})
        low, high = meter.result().intervals["fvu"]
        assert low < meter.result().fvu < high
        widths.append((high - low) / meter.result().fvu)
    assert widths[1] > 3 * widths[0]


def test_intervals_cover_the_truth():
    """Of 100 texts, about 95 intervals hold the true mean."""
    covered = 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        active = torch.rand(40, 1, generator=generator).repeat_interleave(5, 0) > 0.5
        meter = Meter(["w"], 1)
        rows = torch.randn(200, 2, generator=generator)
        meter.add({"w": rows}, {"w": rows}, Latents.from_dense(active.float()), {"document": torch.arange(200) // 5})
        low, high = meter.result().intervals["l0"]
        covered += low <= 0.5 <= high
    assert covered >= 85


def test_plain_values_can_be_written():
    import json

    rows = torch.randn(30, 4)
    plain = fidelity(identity(4), between(rows, rows)).plain()
    assert json.loads(json.dumps(plain))["fvu"] == plain["fvu"]
    assert {"sites", "intervals", "strata"}.isdisjoint(plain)
