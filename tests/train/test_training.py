"""The loop: it finds what was planted, it revives the dead, and it resumes bit for bit."""

import json
import signal
from pathlib import Path

import pytest
import torch

from glassworks.coders import JumpReLU
from glassworks.errors import BadArtefact, GlassworksError
from glassworks.evals import fidelity
from glassworks.train import Layerwise, Plan, Rate, Rows, Sparsity, Stream, fit, reconstruction, revival

from .conftest import SITE


def test_finds_a_planted_dictionary(planted, learning):
    truth, recording = planted
    objective = learning()
    fit(objective, Rows(recording, 256, 0.0, 1), Plan(600, Rate(1e-2)))
    objective.learners[0].calibrate(planted[1].values[SITE.name], 3)
    coder = objective.learners[0].export()
    found = coder.decoder_rows(torch.arange(coder.d_latent))
    assert (truth @ found.T).max(1).values.mean() > 0.95
    rows = recording.values[SITE.name]
    measured = fidelity(coder, rows, rows)
    assert measured.fvu < 0.1
    assert 2.0 < measured.l0 < 4.0


def test_the_loss_falls(planted, learning, tmp_path):
    fit(learning(start=1.0), Rows(planted[1], 256, 0.0, 1), Plan(100, Rate(1e-2, 5), folder=tmp_path, log_steps=10))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    errors = [line["error/resid_post.0"] for line in lines]
    assert [line["step"] for line in lines] == list(range(10, 101, 10))
    assert errors[-1] < 0.5 * errors[0]


def test_dead_latents_are_revived(planted, learning):
    rows = planted[1].values[SITE.name]

    def dead(weight: float) -> float:
        objective = learning(d_latent=60, start=1.0, patience=1000)
        (learner,) = objective.learners
        with torch.no_grad():
            learner.coder.b_enc[:40] = -0.8
        objective.terms = {"error": (1.0, reconstruction), "revival": (weight, revival(1000, 8))}
        fit(objective, Rows(planted[1], 256, 0.0, 1), Plan(150, Rate(1e-2)))
        learner.calibrate(rows, 3)
        return fidelity(learner.export(), rows, rows).dead

    assert dead(0.0) >= 0.6
    assert dead(0.5) <= 0.2


class Interrupting(Stream):
    """A stream during whose tenth batch the user presses Ctrl-C."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.drawn = stream, 0

    def draw(self):
        self.drawn += 1
        if self.drawn == 10:
            signal.raise_signal(signal.SIGINT)
        return self.stream.draw()

    def generators(self):
        return self.stream.generators()


def plan(folder: Path | None, steps: int = 25) -> Plan:
    return Plan(steps, Rate(5e-3, warmup=5), folder=folder)


def test_resumes_bit_for_bit(planted, learning, tmp_path):
    straight = learning()
    fit(straight, Rows(planted[1], 128, 0.3, 1), plan(None))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(learning(), Interrupting(Rows(planted[1], 128, 0.3, 1)), plan(tmp_path))
    assert signal.getsignal(signal.SIGINT) is before
    resumed = learning()
    fit(resumed, Rows(planted[1], 128, 0.3, 1), plan(tmp_path))
    for name, value in straight.learners[0].state_dict().items():
        assert torch.equal(value, resumed.learners[0].state_dict()[name]), name


def test_a_finished_training_is_not_run_again(planted, learning, tmp_path):
    fit(learning(), Rows(planted[1], 128, 0.0, 1), plan(tmp_path))
    again = learning()
    assert fit(again, Rows(planted[1], 128, 0.0, 1), plan(tmp_path)) == {}
    assert again.learners[0].silent.any()


def test_the_checkpoint_of_another_training_is_refused(planted, learning, tmp_path):
    fit(learning(), Rows(planted[1], 128, 0.0, 1), plan(tmp_path))
    with pytest.raises(BadArtefact, match="another training"):
        fit(learning(), Rows(planted[1], 128, 0.0, 1), plan(tmp_path, 26))


def test_a_loss_that_is_not_finite_is_named(planted, learning):
    objective = learning()
    with torch.no_grad():
        objective.learners[0].coder.b_dec[0] = float("nan")
    with pytest.raises(GlassworksError, match=r"error/resid_post\.0 is not finite at step 0"):
        fit(objective, Rows(planted[1], 128, 0.0, 1), plan(None))


def test_the_progress_bar_shows(planted, learning, capsys):
    fit(learning(), Rows(planted[1], 64, 0.0, 1), Plan(3, show=True, name="a name"))
    assert "a name" in capsys.readouterr().out


def test_gradients_are_those_of_finite_differences(planted, learning):
    (learner,) = learning(d_latent=12).learners
    learner.double()
    rows = planted[1].values[SITE.name][:6].double()
    learner.silent[:4] = 10_000
    names = [name for name, _ in learner.named_parameters()]
    for term in (reconstruction, revival(1000, 2)):

        def run(*values: torch.Tensor, term=term) -> torch.Tensor:
            given = dict(zip(names, values, strict=True))
            return term(torch.func.functional_call(learner, given, (rows, rows, 3.0)))

        values = tuple(value.detach().clone().requires_grad_() for _, value in learner.named_parameters())
        if term is reconstruction:
            assert torch.autograd.gradcheck(run, values)
        else:
            run(*values).backward()
            assert values[names.index("coder.w_enc")].grad[:4].abs().sum() > 0
            assert values[names.index("coder.w_enc")].grad[4:].abs().sum() == 0


def test_export_does_what_the_learner_does(planted, learning):
    (learner,) = learning().learners
    rows = planted[1].values[SITE.name]
    learner.calibrate(rows, 3)
    coder = learner.export()
    attempt = learner(rows, rows, 3)
    assert isinstance(coder.activation, JumpReLU)
    assert torch.allclose(coder.decoder_rows(torch.arange(60)).norm(dim=1), torch.ones(60), atol=1e-5)
    close = (coder(rows) - attempt.raw()).abs().amax(1) < 1e-4
    assert close.float().mean() > 0.999  # the row at the threshold itself, and rounding next to it, may differ
    assert abs(float(coder.encode(rows).counts.float().mean()) - 3.0) < 0.01


def test_scaled_inputs_have_unit_size(planted, learning):
    (learner,) = learning().learners
    rows = planted[1].values[SITE.name]
    assert float(learner.read(rows).square().sum(1).mean()) == pytest.approx(1.0, abs=1e-5)
    assert float(learner.write(rows).var(0, correction=0).sum()) == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(learner.write.undo(learner.write(rows)), rows, atol=1e-5)


def test_schedules():
    sparsity, rate = Sparsity(10, 4.0, 0.5), Rate(1.0, warmup=10, decay=0.5)
    assert [sparsity(share) for share in (0.0, 0.25, 0.5, 1.0)] == [40.0, 25.0, 10.0, 10.0]
    assert [rate(step, 100) for step in (0, 4, 9, 50, 75, 99)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.02])


def test_an_objective_names_its_losses(planted, learning):
    objective = learning()
    assert isinstance(objective, Layerwise)
    losses = objective.losses(Rows(planted[1], 64, 0.0, 1).draw(), 0.0)
    assert set(losses) == {"error/resid_post.0", "revival/resid_post.0"}
