"""Fixtures that every room's tests share; shapes are checked here and nowhere else."""
# ruff: noqa: E402 (the hook and the environment come before everything that they concern)

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

install_import_hook(["glassworks", "recipes"], "beartype.beartype")

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from glassworks import cli, hub

settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile("repeatable")

DATA = Path(os.environ.get("GLASSWORKS_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data() -> Path:
    """Real models, graphs and corpora made by others; the test is skipped where they are absent."""
    if not DATA.is_dir():
        pytest.skip("no test data; set GLASSWORKS_TEST_DATA")
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


LACKING = {
    "no test data": not DATA.is_dir(),
    "chromium": shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    "could not import 'triton'": sys.platform != "linux",
}
"""The start of a reason to skip -> whether it holds on this machine; every other reason always holds."""


def listed_skips() -> Counter[tuple[str, str]]:
    """How many tests of each file may be skipped, by the start of the reason: the rows of skipped.txt."""
    rows = (Path(__file__).parent / "skipped.txt").read_text(encoding="utf-8").splitlines()
    split = [row.split(maxsplit=2) for row in rows if row and not row.startswith("#")]
    return Counter({(file, reason): int(count) for count, file, reason in split})


def expected_skips() -> Counter[tuple[str, str]]:
    """Those of the listed skips that hold on this machine."""

    def holds(reason: str) -> bool:
        return next((now for start, now in LACKING.items() if reason.startswith(start)), True)

    return Counter({(file, reason): count for (file, reason), count in listed_skips().items() if holds(reason)})


NARROWING = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "failedfirst", "collectonly", "maxfail")
"""Options with which a run is not the whole one."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Compare the tests that were skipped with the list, so that none is lost silently."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput") or reporter is None or config.option.collectonly:
        return
    expected, skipped = expected_skips(), Counter[tuple[str, str]]()
    for report in reporter.stats.get("skipped", []):
        file, reason = report.nodeid.split("::")[0], report.longrepr[2].removeprefix("Skipped: ")
        # a listed reason is how the reason begins
        skipped[
            file, next((start for name, start in expected if name == file and reason.startswith(start)), reason)
        ] += 1
    paths = {(config.invocation_params.dir / each).resolve() for each in config.args}
    whole = paths == {config.rootpath / each for each in config.getini("testpaths")}
    whole &= not any(getattr(config.option, name, None) for name in NARROWING)
    whole &= sum(LACKING.values()) < 2  # a test that lacks two things is skipped for one of them
    wrong = (skipped - expected) + ((expected - skipped) if whole else Counter())
    reporter.write_line(f"\n{skipped.total()} tests skipped; {expected.total()} are listed in tests/skipped.txt")
    for file, reason in wrong:
        reporter.write_line(
            f"{file}: {skipped[file, reason]} skipped, {expected[file, reason]} listed: {reason}", red=True
        )
    lost = sorted({file for file, _ in listed_skips() if not (config.rootpath / file).is_file()})
    for file in lost:
        reporter.write_line(f"{file} is listed in tests/skipped.txt, and there is no such file", red=True)
    if (wrong or lost) and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
