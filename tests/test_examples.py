"""The examples run, and what they print is what they are there to show."""

import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture
def printed(capsys):
    def call(name: str) -> str:
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def shares(line: str) -> list[int]:
    return [int(each) for each in re.findall(r"(\d+)%", line)]


def test_dallas_becomes_sacramento(printed):
    said = printed("dallas_swap.py")
    assert re.search(r"Austin -> +Sacramento", said)
    flips, random = (float(each) for each in re.findall(r"([\d.]+)%", said)[-2:])
    assert flips >= 90
    assert random <= 5


def test_english_becomes_french(printed):
    lines = printed("language_swap.py").splitlines()
    clean, edited = (shares(next(line for line in lines if line.startswith(name))) for name in ("clean", "edited"))
    assert clean[0] >= 95
    assert edited[0] <= 10
    assert edited[1] >= 80
    assert shares(lines[-1])[0] >= 80


def test_refusals_are_explained(printed):
    lines = printed("refusal_ablation.py").splitlines()
    rows = {
        name: shares(next(line for line in lines if line.startswith(name))) for name in ("nothing", "these", "as many")
    }
    assert rows["nothing"] == [100, 0]
    assert rows["these"][0] <= 40
    assert rows["as many"][0] >= 95
