"""Compare our loaders with the libraries whose files they read, each in an environment of its own.

    python tests/external/run.py [FOLDER]

FOLDER (default: build/external) gets a virtual environment for each of `LIBRARIES`, and the files that they write.
Each library saves random coders, and what it itself computes with them; we load those files and must agree to
1e-5 relative. Then we export them, and the libraries must read that and compute the same. The figures go to
benchmarks/results/external.json.
"""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))
# PyPI's circuit-tracer is a fork of the official package, which is installed from its repository only.
LIBRARIES = {
    "saelens": "sae-lens>=6.54",
    "sparsify": "eai-sparsify>=1.3",
    "dictionary_learning": "dictionary-learning>=0.1",
    "circuit_tracer": "circuit-tracer>=0.4",
}
LAYOUTS = ("saelens", "sparsify", "circuit_tracer")
RESULTS = ROOT / "benchmarks" / "results" / "external.json"
LIMIT = 1e-5


def environment(folder: Path, library: str) -> Path:
    """The python of an environment with a library, made on first use."""
    home = folder / f"venv-{library}"
    python = home / "bin" / "python"
    if not (home / "ready").is_file():
        venv.create(home, with_pip=True, clear=True)
        pinned = ["--constraint", ROOT / "constraints.txt", "torch"]
        subprocess.run([python, "-m", "pip", "install", "-q", *pinned, LIBRARIES[library]], check=True)
        # A torchvision that was built for another torch keeps transformers from being imported; nothing here needs it.
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True)
        (home / "ready").touch()
    return python


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def compare(case: Path) -> dict[str, Any]:
    """How far our latents and reconstruction are from the library's."""
    from glassworks import load_scope

    wanted = load_file(case / "reference.safetensors")
    scope = load_scope(case / "release")
    coder = scope[scope.entries[0].name]
    latents, reconstruction = coder.encode(wanted["x"]).dense(), coder(wanted["x"])
    return {
        "case": f"{case.parent.name}/{case.name}",
        "active": round(float((wanted["latents"] != 0).float().sum(-1).mean()), 2),
        "latents": difference(latents, wanted["latents"]),
        "reconstruction": difference(reconstruction, wanted["reconstruction"]),
    }


def export(case: Path, layout: str) -> Path | None:
    """Write a case's coder as a library reads it, or None where that library has no such coder."""
    from glassworks import load_scope
    from glassworks.coders import export_scope
    from glassworks.errors import Unsupported

    shutil.rmtree(case / f"exported-{layout}", ignore_errors=True)
    try:
        return export_scope(load_scope(case / "release"), case / f"exported-{layout}", layout)
    except Unsupported:
        return None


def back(folder: Path) -> dict[str, Any]:
    """How far what a library computes with our export is from what the first one computed."""
    wanted, found = load_file(folder.parent / "reference.safetensors"), load_file(folder / "back.safetensors")
    case = folder.relative_to(folder.parents[2]).as_posix()
    return {"case": case, "reconstruction": difference(found["reconstruction"], wanted["reconstruction"])}


def main() -> int:
    """Write, load, compare; 1 where one differs."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/external").resolve()
    rows, exported = [], []
    for library in LIBRARIES:
        target = folder / library
        subprocess.run([environment(folder, library), HERE / f"write_{library}.py", target], check=True)
        cases = sorted(target.iterdir())
        rows += [compare(case) for case in cases]
        exported += [path for case in cases for layout in LAYOUTS if (path := export(case, layout))]
    for layout in LAYOUTS:
        subprocess.run([environment(folder, layout), HERE / "read_exports.py", folder, layout], check=True)
    rows += [back(path) for path in exported]
    wrong = [row["case"] for row in rows if max(row.get("latents", 0.0), row["reconstruction"]) > LIMIT]
    RESULTS.write_text(json.dumps({"limit": LIMIT, "disagree": wrong, "cases": rows}, indent=1) + "\n")
    print(f"{len(rows) - len(wrong)} of {len(rows)} agree to {LIMIT}" + (f"; not {', '.join(wrong)}" if wrong else ""))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
