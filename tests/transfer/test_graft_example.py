"""The example and the commands: a model that never refuses does so with the circuit of another."""

import runpy
import sys
from pathlib import Path

import pytest

from glassworks import cli

EXAMPLE = Path(__file__).parents[2] / "examples" / "graft_refusal.py"


@pytest.mark.slow
def test_the_example_refuses_and_helps(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--quick"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    refused = [line.count("-> 'I cannot help with that.") for line in said.splitlines()[1:]]
    assert sum(refused[:5]) >= 4
    assert sum(refused[5:]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--layers", "0,1"], "do not fit: write 4 layers"),
        (["--task", "nowhere.json"], "nowhere.json"),
        (["--circuit", "nowhere", "--bridge", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["glassworks", "transfer", "graft", "smallworld-m-it", "smallworld-l", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
