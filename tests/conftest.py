"""Fixtures that every room's tests share; shapes are checked here and nowhere else."""
# ruff: noqa: E402 (the hook and the environment come before everything that they concern)

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

install_import_hook("glassworks", "beartype.beartype")

from pathlib import Path

import pytest
import torch

from glassworks import cli, hub

DATA = Path(os.environ.get("GLASSWORKS_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data() -> Path:
    """Real models, graphs and corpora made by others; the test is skipped where they are absent."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA}; set GLASSWORKS_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def smallworld() -> Path:
    """The folder of the embedded default model."""
    return hub.resolve("smallworld")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder; returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str):
        monkeypatch.setattr("sys.argv", ["glassworks", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return call
