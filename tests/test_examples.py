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


def test_coders_are_audited_beside_baselines(printed):
    lines = printed("audit_smallworld.py").splitlines()
    recovered = {line.split()[0]: float(line.split()[-3]) for line in lines[1:5]}
    assert recovered["transcoders"] >= 0.98
    assert max(recovered[kind] for kind in ("neurons", "random", "components")) <= 0.95
    unexplained = {tuple(line.split()[:2]): float(line.split()[2]) for line in lines[7:]}
    assert len(unexplained) == 16
    for (kind, layer), share in unexplained.items():
        assert kind == "transcoders" or share > 3 * unexplained["transcoders", layer]


def test_refusal_is_studied_beside_chance(printed):
    out = printed("refusal_study.py")
    topics, twins = (out.split(f"\n{name}\n")[1].split("\n\n")[0] for name in ("new topics", "harmless twins"))
    refused = {row.rsplit("  ", 1)[0].strip(): float(row.rsplit("  ", 1)[1].split()[0])
               for row in topics.splitlines()[1:6]}  # fmt: skip
    assert refused["clean"] == 1
    assert refused["direction"] <= 0.1
    assert refused["features"] <= 0.4
    assert refused["direction ~ random directions"] >= 0.9
    assert refused["features ~ matched features"] >= 0.9
    assert all(float(row.rsplit("  ", 1)[1].split()[0]) <= 0.1 for row in twins.splitlines()[1:6])
    assert out.count("p 0.10") == 2
