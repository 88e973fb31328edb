"""What is committed of the explorer's libraries: names and hashes, and nothing that could go stale unseen."""

import importlib.util
import json
from pathlib import Path

from glassworks.server import page

ROOT = Path(__file__).parents[2]


def test_libraries_are_fixed_by_hash_and_not_by_address() -> None:
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    packages = {name: each for name, each in lock["packages"].items() if name}
    assert packages
    assert all("resolved" not in each for each in packages.values())
    assert all(each["integrity"].startswith("sha512-") for each in packages.values())
    wanted = json.loads((ROOT / "web" / "package.json").read_text())
    versions = {**wanted["dependencies"], **wanted["devDependencies"]}
    assert versions == {name: packages[f"node_modules/{name}"]["version"] for name in versions}


def test_the_libraries_here_are_those_of_the_lock_file() -> None:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    stamp = (page.LIBRARIES / build.STAMP).read_text(encoding="utf-8")
    assert stamp == build.fingerprint(ROOT), "run `make web`"


def test_every_module_says_why_it_exists() -> None:
    own = [file for file in page.WEB.rglob("*.js") if "lib" not in file.parts]
    assert len(own) > 10
    assert [file.name for file in own if not file.read_text(encoding="utf-8").startswith("/**\n")] == []
    assert [file.name for file in own if len(file.read_text(encoding="utf-8").splitlines()) > 400] == []
