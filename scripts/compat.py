"""Run the rooms that stand on other libraries with the oldest and the newest releases that pyproject.toml allows.

Each end of the range gets a fresh environment; everything else in it is as constraints.txt pins it. Deprecation
warnings of other libraries are no errors here: what they announce is the next release's business.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LIBRARIES = ("transformers", "huggingface_hub", "tokenizers", "starlette", "numpy")
ROOMS = ("tests/models", "tests/coders", "tests/harvest", "tests/edits", "tests/server/test_api.py")
WARNINGS = (
    "error",
    *(f"default::{kind}" for kind in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")),
)


def main() -> int:
    """Both ends of the range; the exit code is the first failure's."""
    return next((code for end in ("oldest", "newest") if (code := run(end))), 0)


def run(end: str) -> int:
    """Install one end of the range, print its versions, run the tests."""
    folder = ROOT / "artefacts" / "compat" / end
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pins = folder / "constraints.txt"
    pins.write_text("\n".join(constraints(end)) + "\n", encoding="utf-8")
    environment = os.environ | {"CONSTRAINTS": str(pins)}
    if code := subprocess.run([ROOT / "scripts" / "install", folder, "test"], cwd=ROOT, env=environment).returncode:
        return code
    python = folder / "bin" / "python"
    show = f"from importlib.metadata import version; print(*(n + ' ' + version(n) for n in {LIBRARIES!r}), sep=', ')"
    print(f"\n{end}:", subprocess.check_output([python, "-c", show], text=True), flush=True)
    warnings = [word for each in WARNINGS for word in ("-W", each)]
    parallel = ["--numprocesses", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
    test = [python, "-m", "pytest", "-q", "-o", "filterwarnings=", *warnings, *parallel, *ROOMS]
    return subprocess.run(test, cwd=ROOT).returncode


def constraints(end: str) -> list[str]:
    """Lines of constraints.txt, with the libraries at their lower bound, or left to the newest that is allowed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {each.name: each.specifier for each in map(Requirement, project["dependencies"]) if each.name in LIBRARIES}
    if wanting := set(LIBRARIES) - set(bounds):
        raise SystemExit(f"pyproject.toml does not name {', '.join(sorted(wanting))}.")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if re.split("[=#]", line)[0].strip().replace("-", "_") not in LIBRARIES]
    lower = [f"{name}=={part.version}" for name, spec in bounds.items() for part in spec if part.operator == ">="]
    return kept + (lower if end == "oldest" else [])


if __name__ == "__main__":
    sys.exit(main())
