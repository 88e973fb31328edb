"""Seconds and memory of a training step, against a plain dense loop and three libraries in their own environments.

    python benchmarks/training.py [--environments FOLDER] [--threads 1 2] [--only WORD ...] [--budget-minutes 60]

Batch 4,096, k 32, each case in a process of its own: peers/run_NAME.py KIND D LATENTS THREADS WARM STEPS. Ours is one
coder with a recipe as it is; their own float32 encoder product is measured between their steps. A
cross-layer transcoder has batch 2,048, k 16, d 256 and 2,048 latents a layer. With one thread processor seconds decide,
since machines are shared; seconds are noted too. Needs the environments of tests/external/run.py (made where they are
not there). Cases that are already in benchmarks/results/training.json are run again only if --only names them; the
budget ends the run, also amid a case, and the next run goes on there.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "training.json"
SIZES = ((640, 16384), (256, 16384), (640, 4096), (256, 4096))
THEIRS = ("topk", "jumprelu", "batchtopk")
PEERS = {"saelens": THEIRS, "dictionary_learning": THEIRS, "sparsify": ("topk",)}
LAYERS = (6, 12)
GOALS = {"saelens": (6.0, 10.0), "sparsify": (1.5, 2.5), "plain_clt": (5.0, 5.0)}
"""How many times faster at 16,384 latents, with float32 and with bfloat16 products."""
PRODUCTS = {256: 1.7, 640: 1.3}
"""How many of its own float32 encoder products a step may take at 16,384 latents, by d."""


Case = tuple[str, str, int, int, int]


def cases(threads: list[int]) -> list[Case]:
    """All that is measured: who, kind, d (or layers), latents, threads.

    Those that decide come first, and those that are compared follow each other.
    """
    found = []
    for count in threads:
        for d, latents in SIZES[:2]:
            found += [case for kind in THEIRS for case in compared(kind, d, latents, count)]
        found += [(who, "clt", layers, 2048, count) for layers in LAYERS for who in ("glassworks", "plain_clt")]
    for count in threads:
        found += [("glassworks", "jumprelu-half", d, latents, count) for d, latents in SIZES]
        for d, latents in SIZES:
            found += [case for kind in THEIRS for case in compared(kind, d, latents, count)]
            found += [(who, kind, d, latents, count) for kind in THEIRS for who in ("plain", "dictionary_learning")]
    return list(dict.fromkeys(found))


def compared(kind: str, d: int, latents: int, threads: int) -> list[Case]:
    """Our steps and those that a goal compares them with."""
    peers = [("saelens", kind)] + [("sparsify", kind)] * (kind in PEERS["sparsify"])
    ours = [("glassworks", kind), ("glassworks", f"{kind}-bfloat16")]
    return [(who, what, d, latents, threads) for who, what in (*ours, *peers)]


def measure(case: Case, environments: Path, ends: float) -> dict[str, Any] | None:
    """Run one case in its own process; None where time ran out."""
    who, kind, d, latents, threads = case
    steps = (2, 5) if latents < SIZES[0][1] else (2, 3) if who == "glassworks" else (1, 2)
    python = environment(environments, who) if who in PEERS else Path(sys.executable)
    found = answer([python, f"run_{who}.py", kind, d, latents, threads, *steps], threads, ends)
    return found and dict(zip(("who", "kind", "d", "latents", "threads"), case, strict=True)) | found


def answer(command: list[Any], threads: int, ends: float) -> dict[str, Any] | None:
    """What a program of peers/ reports, with the load of the machine; None where time ran out."""
    python, program, *words = command
    quiet = {"OMP_NUM_THREADS": str(threads), "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    line, left = [python, HERE / "peers" / program, *map(str, words)], max(ends - time.monotonic(), 1)
    try:
        done = subprocess.run(line, env=os.environ | quiet, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    found = json.loads(lines[-1][7:]) if lines else {"failed": done.stderr.strip().splitlines()[-1:]}
    return found | {"load": round(os.getloadavg()[0], 1)}


def environment(folder: Path, library: str) -> Path:
    """The python of a library's environment."""
    path = HERE.parent / "tests" / "external" / "run.py"
    spec = importlib.util.spec_from_file_location("external", path)
    assert spec is not None
    assert spec.loader is not None
    external = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(external)
    return external.environment(folder.resolve(), library)


def comparisons(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How our steps compare with those of the others and with our own product, and what was aimed at."""
    found = []
    at = {(row["who"], row["kind"], row["d"], row["latents"], row["threads"]): row for row in rows if "cpu" in row}
    for (who, kind, d, latents, threads), row in at.items():
        if who != "glassworks":
            continue
        clock, narrow = "cpu" if threads == 1 else "wall", "bfloat16" in kind
        place = {"kind": kind, "d": d, "latents": latents, "threads": threads}
        large = latents == 16384
        if kind != "clt":
            goal = PRODUCTS[d] if large and not narrow and "half" not in kind else None
            ratio = row[clock] / row[f"product_{clock}"]
            found.append(place | {"steps_over_product": round(ratio, 2), "at_most": goal})
        for other in (*PEERS, "plain", "plain_clt"):
            theirs = at.get((other, kind.split("-")[0], d, latents, threads))
            if theirs is not None:
                goal = GOALS[other][narrow] if other in GOALS and (large or kind == "clt") else None
                times = round(theirs[clock] / row[clock], 2)
                found.append(place | {"other": other, "times_faster": times, "at_least": goal})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, default=Path("build/external"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", default=[], help="words that all stand in 'who kind d latents threads'")
    parser.add_argument("--budget-minutes", type=float, default=60.0)
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.budget_minutes
    old = json.loads(RESULTS.read_text())["cases"] if RESULTS.is_file() else []
    rows = [row for row in old if "cpu" in row]
    known = {(row["who"], row["kind"], row["d"], row["latents"], row["threads"]): row for row in rows}
    for case in cases(options.threads):
        words = " ".join(map(str, case)).split()
        wanted = all(word in words for word in options.only) if options.only else case not in known
        if wanted and time.monotonic() < ends:
            row = measure(case, options.environments, ends)
            if row is None:
                break
            known[case] = row
            print(json.dumps(known[case]), flush=True)
            rows = list(known.values())
            found = {"machine": machine("torch", "numba"), "comparisons": comparisons(rows), "cases": rows}
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    for each in comparisons(list(known.values())):
        goal = each.get("at_most") or each.get("at_least")
        print(*each.values() if goal else [*each.values()][:-1])


if __name__ == "__main__":
    main()
