"""`glassworks harvest`, as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from glassworks.harvest import load_store

TEXT = "The opposite of hot is cold.\n\nThe plural of cat is cats.\n\nLyon is in France."
WORDS = ("harvest", "smallworld", "--text", "t.txt", "--separator", "\n\n", "--out", "store")


@pytest.fixture
def text(tmp_path):
    (tmp_path / "t.txt").write_text(TEXT)
    return tmp_path / "t.txt"


def test_a_store_is_written(run, text, tmp_path):
    code, out, err = run(*WORDS, "--sites", "mlp_in,resid_post.1,embed", "--layers", "0,2-3", "--json")
    assert code == 0, err
    said = json.loads(out)
    store = load_store(tmp_path / "store")
    assert store.sites == ["mlp_in.0", "mlp_in.2", "mlp_in.3", "resid_post.1", "embed"]
    assert said["rows"] == store.rows
    assert said["finished"] is True
    assert said["mean squared norm"]["embed"] == store.statistics("embed").square
    assert store.untrained == ("bos", "eos", "pad")


def test_a_dry_run_writes_nothing(run, text, tmp_path):
    code, out, err = run(*WORDS, "--dry-run", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["shards"] == 1
    assert said["counted"] is True
    assert said["tokens/s"] > 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["t.txt"]
    run(*WORDS)
    assert load_store(tmp_path / "store").rows == said["rows"]


def test_answers_are_harvested(run, text, tmp_path):
    code, _, err = run(*WORDS, "--rollouts", "4", "--temperature", "0")
    assert code == 0, err
    records = [json.loads(line) for line in (tmp_path / "store.rollouts.jsonl").read_text().splitlines()]
    assert len(records) == 3
    assert load_store(tmp_path / "store").rows <= sum(len(each["tokens"]) - 1 for each in records)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sites", "mlp_inn"], "There is no site kind 'mlp_inn'; the nearest are mlp_in"),
        (["--sites", "mlp_in.9"], "no site mlp_in.9"),
        (["--layers", "a-b"], "The layers 'a-b' cannot be read"),
        (["--part", "3/2"], "The part '3/2' is none"),
        (["--store", "float8"], "cannot be stored as 'float8'; the nearest are float32"),
        (["--untrained", "boss"], "no positions 'boss'"),
        (["--text", "nothing.txt"], "The text nothing.txt does not exist"),
        (["--rollouts", "4", "--out", "memory://x"], "beside a local store"),
    ],
)
def test_mistakes_are_one_line(run, text, words: list[str], message: str):
    code, out, err = run(*WORDS, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_an_interrupted_harvest_goes_on(tmp_path):
    (tmp_path / "t.txt").write_text("\n\n".join([TEXT] * 2000))
    command = [sys.executable, "-m", "glassworks", *WORDS[:-1], str(tmp_path / "store"), "--batch", "256"]
    command[command.index("t.txt")] = str(tmp_path / "t.txt")
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job's children would not hear it
    process = subprocess.Popen([*command, "--shard", "1"], stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while not (tmp_path / "store" / "marks").is_dir() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "interrupted; every whole shard is kept" in err
    kept = {each.name: os.stat(each).st_mtime_ns for each in (tmp_path / "store" / "marks").iterdir()}
    assert kept
    assert subprocess.run([*command, "--shard", "1"], capture_output=True, check=False).returncode == 0
    store = load_store(tmp_path / "store")
    assert store.verify() == []
    assert all(os.stat(tmp_path / "store" / "marks" / name).st_mtime_ns == moment for name, moment in kept.items())
