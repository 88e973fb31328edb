"""Processor seconds for 4,096 tokens from the language model to the coders, against SAELens' trainer of many SAEs.

    python benchmarks/training_end_to_end.py [--environments FOLDER] [--threads 1] [--budget-minutes 30]

A random GPT-2 of six layers, 256 wide, reads contexts of 128 random tokens; TopK coders of 4,096 latents with k 32
learn its residual stream: one after the last layer, one after the third, or one after each of the six. Every step
has one forward pass, and both buffers hold two batches. SAELens runs with its defaults, in its own environment.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from common import machine
from training import HERE, answer, environment

RESULTS = HERE / "results" / "training_end_to_end.json"
LAYERS = {"all six": "0,1,2,3,4,5", "the last": "5", "the third": "2"}
FASTER, MORE = 4.0, 0.6
STEPS = {"glassworks": (2, 7), "saelens": (1, 3)}


def comparisons(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the goals are about."""
    at = {(each["who"], each["coders after"], each["threads"]): each["cpu"] for each in cases if "cpu" in each}
    found = []
    for (who, name, threads), cpu in at.items():
        place = {"who": who, "coders after": name, "threads": threads}
        theirs = at.get(("saelens", name, threads))
        if who == "glassworks" and theirs:
            goal = FASTER if name == "all six" else None
            found.append(place | {"times_faster": round(theirs / cpu, 2), "at_least": goal})
        six = at.get((who, "all six", threads))
        if name != "all six" and six:
            goal = MORE if who == "glassworks" else None
            found.append(place | {"one_more_costs": round((six - cpu) / 5 / cpu, 2), "at_most": goal})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, default=Path("build/external"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget-minutes", type=float, default=30.0)
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.budget_minutes
    old = json.loads(RESULTS.read_text())["cases"] if RESULTS.is_file() else []
    cases = [each for each in old if each["threads"] != options.threads]
    pythons = {"glassworks": Path(sys.executable), "saelens": environment(options.environments, "saelens")}
    for name, layers in LAYERS.items():
        for who, python in pythons.items():
            command = [python, f"run_live_{who}.py", layers, 256, 4096, options.threads, *STEPS[who]]
            found = answer(command, options.threads, ends)
            if found is None:
                break
            cases.append({"who": who, "coders after": name, "threads": options.threads} | found)
            print(json.dumps(cases[-1]), flush=True)
            written = {"machine": machine("torch", "numba"), "comparisons": comparisons(cases), "cases": cases}
            RESULTS.write_text(json.dumps(written, indent=1) + "\n")
    for each in comparisons(cases):
        print(json.dumps(each))


if __name__ == "__main__":
    main()
