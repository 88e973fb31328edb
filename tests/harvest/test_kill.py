"""kill -9 at random moments, and several processes at once: the store ends the same, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest

VICTIM = Path(__file__).parent / "victim.py"


@pytest.mark.slow
def test_a_killed_harvest_ends_like_one_that_was_not(tmp_path):
    done = subprocess.run([sys.executable, VICTIM, tmp_path, "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("3 kills")
