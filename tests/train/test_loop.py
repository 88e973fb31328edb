"""The loop: it saves, resumes bit for bit, and writes no line of metrics twice."""

import json
import signal

import pytest
import torch

from glassworks.errors import BadArtefact, BadInput, GlassworksError
from glassworks.harvest import Rows, Stream
from glassworks.train import Dead, Trainer, fit


class Interrupting(Stream):
    """A stream during whose tenth batch the user presses Ctrl-C."""

    def __init__(self, stream: Rows) -> None:
        self.inner, self.batch, self.widths, self.drawn = stream, stream.batch, stream.widths, 0

    def draw(self):
        self.drawn += 1
        if self.drawn == 11:  # the first one is a sample
            signal.raise_signal(signal.SIGINT)
        return self.inner.draw()

    def state(self):
        return self.inner.state()

    def restore(self, state):
        self.inner.restore(state)

    def statistics(self, site):
        return self.inner.statistics(site)


@pytest.fixture
def specs(spec):
    return [
        spec("a", steps=25, dead=Dead(300, every=6, until=20)),
        spec("b", "clt", steps=25, seed=2),
        spec("c", "skip_transcoder", steps=8, unit=True),
    ]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {f"{n}.{k}": v for n, run in enumerate(trainer.runs) for k, v in run.state_dict().items()}


def test_resumes_bit_for_bit(specs, stream, tmp_path):
    straight = fit(Trainer(specs, stream()), tmp_path / "straight", log_steps=3)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(Trainer(specs, Interrupting(stream())), tmp_path / "b", log_steps=3)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = fit(Trainer(specs, stream()), tmp_path / "b", resume=True, log_steps=3)
    mine = weights(resumed)
    for name, value in weights(straight).items():
        assert torch.equal(value, mine[name]), name
    lines, again = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "b"))
    assert lines == again
    steps = [json.loads(line)["step"] for line in lines.splitlines() if '"a"' in line]
    assert steps == [*range(3, 25, 3), 25]


def test_lines_after_the_checkpoint_are_cut(specs, stream, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(Trainer(specs, Interrupting(stream())), tmp_path, log_steps=3)
    with (tmp_path / "metrics.jsonl").open("a") as file:  # as if it had been killed later
        file.write('{"step": 12, "coder": "a"}\n{"step": 12, "cod')
    fit(Trainer(specs, stream()), tmp_path, resume=True, log_steps=3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = [(each["step"], each["coder"]) for each in lines]
    assert len(found) == len(set(found))
    assert found[-1][0] == 25


def test_a_training_is_not_begun_twice_by_mistake(specs, stream, tmp_path):
    fit(Trainer(specs, stream()), tmp_path)
    with pytest.raises(BadInput, match="resume it"):
        fit(Trainer(specs, stream()), tmp_path)
    again = fit(Trainer(specs, stream()), tmp_path, resume=True)
    assert again.runs[0].output is None
    with pytest.raises(BadArtefact, match="another training"):
        fit(Trainer(specs[:2], stream()), tmp_path, resume=True)


def test_a_full_disk_is_reported_and_loses_nothing(specs, stream, tmp_path, monkeypatch):
    from glassworks import artefacts

    trainer = Trainer(specs, stream())
    with pytest.raises(KeyboardInterrupt):
        fit(Trainer(specs, Interrupting(stream())), tmp_path)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "seal", full)
        with pytest.raises(GlassworksError, match=r"No space left on device.*last one stays"):
            fit(trainer, tmp_path, resume=True)
    assert [each.name for each in (tmp_path / "checkpoints").iterdir()] == ["step-10"]
    fit(Trainer(specs, stream()), tmp_path, resume=True)


def test_a_damaged_checkpoint_is_refused(specs, stream, tmp_path):
    fit(Trainer(specs, stream()), tmp_path)
    (file,) = (tmp_path / "checkpoints").rglob("run.0.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BadArtefact, match="differs from what the manifest states"):
        fit(Trainer(specs, stream()), tmp_path, resume=True)


def test_it_shows_how_it_goes(specs, stream, capsys):
    fit(Trainer(specs, stream()), show=True, log_steps=5)
    assert "step 25 of 25, 2 coders: l0 " in capsys.readouterr().err


def test_other_journals_need_their_packages(specs, stream, tmp_path):
    with pytest.raises(GlassworksError, match="nearest are tensorboard"):
        fit(Trainer(specs, stream()), tmp_path, journals=("tensorbord",))
