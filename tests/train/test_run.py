"""Training runs of every kind: what is exported does on raw activations what was trained on scaled ones."""

from dataclasses import replace

import pytest
import torch

from glassworks.coders import Crosscoder, CrossLayer, Transcoder
from glassworks.train import BatchTopK, Gated, JumpReLU, Ramp, Rectifier, Start, TopK, Trainer, TrainingRun
from glassworks.train.run import resample

KINDS = ["sae", "transcoder", "skip_transcoder", "clt", "crosscoder", "causal_crosscoder"]
GATES = [BatchTopK(Ramp(3)), TopK(Ramp(3)), TopK(Ramp(3), jump=True), JumpReLU(0.2, 0.1), Rectifier(), Gated()]


def trained(spec, stream, kind, **changes) -> Trainer:
    trainer = Trainer([spec(kind=kind, steps=8, **changes)], stream())
    for step in range(8):
        trainer.step(trainer.stream.draw(), step)
    return trainer


def test_every_gate_exports_exactly(spec, stream):
    for gate in GATES:
        check_export(trained(spec, stream, "sae", gate=gate, start=Start(pre_bias=True)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("centred", [True, False])
def test_every_kind_exports_exactly(spec, stream, kind, centred):
    trainer = trained(spec, stream, kind, gate=JumpReLU(0.2, 0.1), centred=centred)
    coder = check_export(trainer)
    right = {"clt": CrossLayer, "causal_crosscoder": CrossLayer, "crosscoder": Crosscoder}.get(kind, Transcoder)
    assert isinstance(coder, right)
    lengths = torch.cat([coder.decoder_rows(torch.arange(60), site) for site in coder.parts[0].writes], 1).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(60), atol=1e-5)


def check_export(trainer: Trainer):
    """Compare on a raw batch; the thresholds of BatchTopK and of TopK as JumpReLU are those of this batch."""
    (run,) = trainer.runs
    scalings = trainer.scalings[run.spec.centred]
    raw = trainer.stream.draw()
    batch = {name: scalings[name](raw[name]) for name in trainer.sites}
    jump = isinstance(run.spec.gate, TopK) and run.spec.gate.jump
    if jump:
        run.spec = replace(run.spec, gate=BatchTopK(Ramp(3)))
    run.calibrate([batch])
    for part in run.parts:
        part.threshold -= 1e-6
    output = run(batch, 10_000)
    coder = run.export(scalings)
    rebuilt = coder({name: raw[name] for name in trainer.sites} if len(coder.reads) > 1 else raw[coder.reads[0].name])
    sizes = [run.widths[site] for site in run.writes]
    for site, written in zip(run.writes, output.written.split(sizes, 1), strict=True):
        found = rebuilt[site.name] if isinstance(rebuilt, dict) else rebuilt
        right = scalings[site.name].undo(written)
        assert (found - right).norm() <= 1e-4 * right.norm(), site
    return coder


def test_decoder_rows_keep_length_one(spec, stream):
    trainer = trained(spec, stream, "clt", unit=True)
    for part in trainer.runs[0].parts:
        assert torch.allclose(part.norms, torch.ones(60), atol=1e-5)


def test_the_gradient_along_the_decoder_is_taken_out(spec, stream):
    trainer = trained(spec, stream, "sae", unit=True)
    run = TrainingRun(spec(unit=True), trainer.stream.draw())
    with torch.no_grad():
        run.parts[0].w_dec /= run.parts[0].norms[:, None]
    before = run.parts[0].w_dec.detach().clone()
    run.backward(trainer.stream.draw(), 0)
    gradient = run.parts[0].w_dec.grad.clone()
    run.update(0)
    moment = run.optimiser.state[run.parts[0].w_dec]["exp_avg"]  # of the first step: what is left of the gradient
    size = float(moment.norm(dim=1).max())
    assert float((gradient * before).sum(1).abs().max()) > 0.01 * float(gradient.norm(dim=1).max())
    assert torch.allclose((moment * before).sum(1), torch.zeros(60), atol=1e-5 * size)


def test_matryoshka_prefixes_are_exported_and_nested(spec, stream):
    trainer = trained(spec, stream, "sae", prefixes=(10, 30, 60), gate=JumpReLU(0.2, 0.1))
    (run,) = trainer.runs
    raw = trainer.stream.draw()
    batch = {name: trainer.scalings[True][name](raw[name]) for name in trainer.sites}
    output, coder = run(batch, 9), run.export(trainer.scalings[True])
    assert coder.prefixes == (10, 30, 60)
    for width, written in zip(coder.prefixes, output.nested, strict=True):
        found = coder.prefix(width)(raw["resid_post.0"])
        assert torch.allclose(found, trainer.scalings[True]["resid_post.0"].undo(written), atol=1e-4)


def test_thresholds_begin_where_so_many_fire(spec, stream):
    for start in (Start(fires=6.0), Start(fires=6.0, raised=True)):
        trainer = Trainer([spec(gate=JumpReLU(0.05, 0.01), start=start)], stream(512))
        raw = trainer.stream.draw()
        output = trainer.runs[0]({name: each(raw[name]) for name, each in trainer.scalings[True].items()}, 0)
        (piece,) = output.parts
        assert float((piece.values > 0).sum()) / 512 == pytest.approx(6.0, abs=1.0)


def test_latents_that_learn_thresholds_are_on_where_they_begin_anew(spec, stream):
    batch = stream(256).draw()
    run = TrainingRun(spec(gate=JumpReLU(50.0, 0.1)), batch)
    output = run(batch, 0)
    assert not output.parts[0].on.any()
    run.parts[0].silent += 10_000
    resample(output, run.optimiser, 0)
    (piece,) = run(batch, 0).parts
    assert (piece.selected.by_latent(piece.on.detach()) > 0).all()
