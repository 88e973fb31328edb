"""kill -9 at 20 random moments of harvests, one and two processes at once: the stores end the same, bit for bit."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

VICTIM = Path(__file__).parents[1] / "tests" / "harvest" / "victim.py"
KILLS = 20


def test_killed_harvests_end_like_one_that_was_not(tmp_path: Path, keep: Callable) -> None:
    done = subprocess.run([sys.executable, VICTIM, tmp_path, str(KILLS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills, stores, shards = (int(each) for each in re.findall(r"\d+", done.stdout.splitlines()[-1])[:3])
    assert kills >= KILLS
    keep("harvest_resume", {"kills": kills, "stores": stores, "shards of each": shards, "identical": True})
