"""Learners of every kind: what is exported does on raw activations what was trained on scaled ones."""

from dataclasses import replace

import pytest
import torch

from glassworks.coders import Crosscoder, CrossLayer, Transcoder
from glassworks.train import BatchTopK, Fleet, Gated, JumpReLU, Learner, Member, Ramp, Rectifier, Start, TopK, export
from glassworks.train.revive import resample

KINDS = ["sae", "transcoder", "skip_transcoder", "clt", "crosscoder", "causal_crosscoder"]
GATES = [BatchTopK(Ramp(3)), TopK(Ramp(3)), TopK(Ramp(3), jump=True), JumpReLU(0.2, 0.1), Rectifier(), Gated()]


def trained(objective, stream, kind, **changes) -> Fleet:
    fleet = Fleet([Member("a", objective(kind, steps=8, **changes))], stream())
    for step in range(8):
        fleet.step(fleet.stream.draw(), step)
    return fleet


def test_every_gate_exports_exactly(objective, stream):
    for gate in GATES:
        check_export(trained(objective, stream, "sae", gate=gate, start=Start(pre_bias=True)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("centred", [True, False])
def test_every_kind_exports_exactly(objective, stream, kind, centred):
    fleet = trained(objective, stream, kind, gate=JumpReLU(0.2, 0.1), centred=centred)
    coder = check_export(fleet)
    right = {"clt": CrossLayer, "causal_crosscoder": CrossLayer, "crosscoder": Crosscoder}.get(kind, Transcoder)
    assert isinstance(coder, right)
    lengths = torch.cat([coder.decoder_rows(torch.arange(60), site) for site in coder.parts[0].writes], 1).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(60), atol=1e-5)


def check_export(fleet: Fleet):
    """Compare on a raw batch; the thresholds of BatchTopK and of TopK as JumpReLU are those of this batch."""
    (trainee,) = fleet.trainees
    learner, scalings = trainee.learner, fleet.scalings[trainee.objective.centred]
    raw = fleet.stream.draw()
    batch = {name: scalings[name](raw[name]) for name in fleet.sites}
    jump = isinstance(learner.objective.gate, TopK) and learner.objective.gate.jump
    if jump:
        learner.objective = replace(learner.objective, gate=BatchTopK(Ramp(3)))
    learner.calibrate([batch])
    for part in learner.parts:
        part.threshold -= 1e-6
    attempt = learner(batch, 10_000)
    coder = export(learner, scalings)
    rebuilt = coder({name: raw[name] for name in fleet.sites} if len(coder.reads) > 1 else raw[coder.reads[0].name])
    sizes = [learner.widths[site] for site in learner.writes]
    for site, written in zip(learner.writes, attempt.written.split(sizes, 1), strict=True):
        found = rebuilt[site.name] if isinstance(rebuilt, dict) else rebuilt
        right = scalings[site.name].undo(written)
        assert (found - right).norm() <= 1e-4 * right.norm(), site
    return coder


def test_decoder_rows_keep_length_one(objective, stream):
    fleet = trained(objective, stream, "clt", unit=True)
    for part in fleet.trainees[0].learner.parts:
        assert torch.allclose(part.norms, torch.ones(60), atol=1e-5)


def test_the_gradient_along_the_decoder_is_taken_out(objective, stream):
    fleet = trained(objective, stream, "sae", unit=True)
    (trainee,) = fleet.trainees
    (part,) = trainee.learner.parts
    part.w_dec.grad = torch.randn(part.w_dec.shape)
    trainee.learner.flatten_gradient()
    assert torch.allclose((part.w_dec.grad * part.w_dec).sum(1), torch.zeros(60), atol=1e-5)


def test_matryoshka_prefixes_are_exported_and_nested(objective, stream):
    fleet = trained(objective, stream, "sae", prefixes=(10, 30, 60), gate=JumpReLU(0.2, 0.1))
    (trainee,) = fleet.trainees
    raw = fleet.stream.draw()
    batch = {name: fleet.scalings[True][name](raw[name]) for name in fleet.sites}
    attempt, coder = trainee.learner(batch, 9), export(trainee.learner, fleet.scalings[True])
    assert coder.prefixes == (10, 30, 60)
    for width, written in zip(coder.prefixes, attempt.nested, strict=True):
        found = coder.prefix(width)(raw["resid_post.0"])
        assert torch.allclose(found, fleet.scalings[True]["resid_post.0"].undo(written), atol=1e-4)


def test_thresholds_begin_where_so_many_fire(objective, stream):
    for start in (Start(fires=6.0), Start(fires=6.0, raised=True)):
        fleet = Fleet([Member("a", objective(gate=JumpReLU(0.05, 0.01), start=start))], stream(512))
        raw = fleet.stream.draw()
        attempt = fleet.trainees[0].learner({name: each(raw[name]) for name, each in fleet.scalings[True].items()}, 0)
        (share,) = attempt.shares
        assert float((share.values > 0).sum()) / 512 == pytest.approx(6.0, abs=1.0)


def test_latents_that_learn_thresholds_are_on_where_they_begin_anew(objective, stream):
    batch = stream(256).draw()
    learner = Learner(objective(gate=JumpReLU(50.0, 0.1)), batch, 0)
    attempt = learner(batch, 0)
    assert not attempt.shares[0].on.any()
    learner.parts[0].silent += 10_000
    resample(attempt, torch.optim.Adam(learner.parameters()), 0)
    (share,) = learner(batch, 0).shares
    assert (share.codes.by_latent(share.on.detach()) > 0).all()
