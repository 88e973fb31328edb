"""Training that is killed again and again, at any moment, ends with the bits of one that never was."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 20
CODE = """
import sys, torch
from pathlib import Path
from glassworks.coders import save_scope
from glassworks.harvest import Recording, Rows
from glassworks.sites import Site
from glassworks.train import Trainer, fit, grid, layouts

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
base = torch.randn(4000, 24, generator=generator)
values = {f"{kind}.{layer}": base @ torch.randn(24, 32, generator=generator)
          for kind in ("mlp_in", "mlp_out", "resid_post") for layer in (0, 1)}
rows = torch.arange(4000)
stream = Rows(Recording(rows % 31, rows // 20, rows % 20, values), 256, 0.3, 1)
sites = [Site.parse(name) for name in values]
short = {"rate": 2e-3}
jump = short | {"fires": 20.0}
specs = grid("topk", layouts("sae", sites[-2:]), stream, 400, [64], [4, 8], numbers=short)
specs += grid("gemma_scope_2", layouts("transcoder", sites), stream, 400, [64], [6], numbers=jump)
specs += grid("clt", layouts("clt", sites), stream, 400, [64], [4], numbers=short)
folder = Path(sys.argv[1])
trainer = fit(Trainer(specs, stream), folder, resume=True, save_seconds=0.5, log_steps=10)
save_scope(trainer.scope("a scope", "a model"), folder / "scope")
"""


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CODE, str(folder)])


def contents(folder: Path) -> dict[str, bytes]:
    found = {str(file.relative_to(folder)): file.read_bytes() for file in (folder / "scope").rglob("*.safetensors")}
    return found | {"metrics.jsonl": (folder / "metrics.jsonl").read_bytes()}


def survives(process: subprocess.Popen, journal: Path, seconds: float) -> bool:
    """Wait until the process trains (it touches its journal then), and so many seconds more; whether it still runs."""
    before = journal.stat().st_mtime_ns if journal.exists() else None
    while process.poll() is None and (not journal.exists() or journal.stat().st_mtime_ns == before):
        time.sleep(0.02)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def latest(folder: Path) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    found = (folder / "checkpoints").glob("step-*")
    return max((int(each.name.removeprefix("step-")) for each in found), default=0)


@pytest.mark.timeout(3600)
def test_killed_twenty_times_it_is_the_same(tmp_path, keep):
    straight = start(tmp_path / "straight")
    assert straight.wait() == 0
    draw, kills, at, killed = random.Random(0), 0, [], tmp_path / "killed"
    while kills < KILLS:
        process, after = start(killed), draw.uniform(0.0, 1.5)
        if survives(process, killed / "metrics.jsonl", after):
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills, at = kills + 1, [*at, [round(after, 2), latest(killed)]]
            continue
        assert process.returncode == 0
        assert contents(killed) == contents(tmp_path / "straight")  # it ended before all kills were done: once more
        shutil.rmtree(killed)
    last = start(killed)
    assert last.wait() == 0
    assert contents(killed) == contents(tmp_path / "straight")
    keep("training_resume", {"kills": kills, "seconds_and_checkpoint_of_each": at, "identical": True})
