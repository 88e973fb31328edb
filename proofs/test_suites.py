"""Suites on real models do at least as well as other libraries on the same rows; reads what tests/external wrote."""

import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "results" / "suites.json"
if not FILE.is_file():
    pytest.skip("run tests/external/suites.py first", allow_module_level=True)
FOUND = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("suite", sorted(FOUND["fvu_ratio"]))
def test_variance_unexplained_is_no_worse_at_equal_sparsity(suite):
    assert FOUND["fvu_ratio"][suite] <= 1.02


@pytest.mark.parametrize("model", sorted(FOUND["models"]))
def test_both_are_as_sparse(model):
    for name, pair in FOUND["models"][model]["members"].items():
        target = int(name.rpartition("_")[2])
        assert pair["ours"]["l0"] == pytest.approx(target, rel=0.02)
        assert pair["ours"]["l0"] == pytest.approx(pair["theirs"]["l0"], rel=0.02)


@pytest.mark.parametrize("model", sorted(FOUND["models"]))
def test_more_latents_explain_more(model):
    found = FOUND["models"][model]["members"]
    sites = {name.partition("/")[0] for name in found}
    for site in sites:
        curve = [pair["ours"]["fvu"] for name, pair in found.items() if name.startswith(f"{site}/")]
        assert curve == sorted(curve, reverse=True)
