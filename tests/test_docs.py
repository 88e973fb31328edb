"""The docs are tested: code runs, and every command, option, site kind and API name is told."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

import glassworks
from glassworks import cli
from glassworks.sites import KINDS

ROOT = Path(glassworks.__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
ALL = "\n".join(TEXT.values())
ENDLESS = ("glassworks serve",)


def fences(language: str):
    for page, text in TEXT.items():
        blocks = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        if blocks:
            yield pytest.param(blocks, id=page.name)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", list(fences("python")))
def test_python_runs(blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, "docs", "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", list(fences("sh")))
def test_commands_run(blocks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in "\n".join(blocks).splitlines():
        if line.startswith("glassworks") and not line.startswith(ENDLESS):
            words = shlex.split(line, comments=True)
            monkeypatch.setattr("sys.argv", words)
            with pytest.raises(SystemExit) as end:
                cli.main()
            assert end.value.code in (0, None), f"{line}: {capsys.readouterr().err}"


def commands():
    def walk(command, path: str):
        inner = getattr(command, "commands", None)
        if inner:
            for name, each in inner.items():
                yield from walk(each, f"{path} {name}")
        else:
            yield path, command

    yield from walk(typer.main.get_command(cli.app), "glassworks")


@pytest.mark.parametrize(("path", "command"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_every_command_and_option_is_told(path, command):
    page = TEXT[ROOT / "docs" / "commands.md"]
    assert path in page
    section = page.split(f"## {path}\n")[1].split("\n## ")[0]
    options = [max(p.opts, key=len) for p in command.params if p.opts[0].startswith("-") and p.name != "help"]
    assert not [each for each in options if f"`{each}`" not in section]


def test_every_site_kind_is_told():
    assert not [kind for kind in KINDS if f"`{kind}`" not in TEXT[ROOT / "docs" / "sites.md"]]


def test_every_name_of_the_api_is_told():
    assert not [name for name in glassworks.__all__ if name != "__version__" and name not in ALL]


ROOMS = ("models", "coders", "harvest", "train", "edits", "experiments", "circuits", "transfer")


@pytest.mark.parametrize("room", ROOMS)
def test_the_page_of_the_api_lists_every_public_name_of_a_room_and_no_other(room):
    """`python scripts/api_docs.py` writes the page anew."""
    section = TEXT[ROOT / "docs" / "api.md"].split(f"## glassworks.{room}\n")[1].split("\n## ")[0]
    assert (
        re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
        == importlib.import_module(f"glassworks.{room}").__all__
    )


def test_links_lead_somewhere():
    broken = []
    for page, text in TEXT.items():
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken
