"""Processor seconds for 4,096 tokens from the language model to the coders, against SAELens' trainer of many SAEs.

    python benchmarks/training_end_to_end.py [--environments FOLDER] [--threads 1] [--budget-minutes 30] [--again]

A random GPT-2 of six layers, 256 wide, reads contexts of 128 random tokens; TopK coders of 4,096 latents with k 32
learn its residual stream: one after the last layer, one after the third, or one after each of the six. Every step
has one forward pass, and both buffers hold two batches. SAELens runs with its defaults, in its own environment.
Only the coder after the last layer needs as much of the model as all six do, so what one more costs is exact there.
"""

import argparse
import json
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

from common import machine
from training import HERE, answer, environment

RESULTS = HERE / "results" / "training_end_to_end.json"
LAYERS = {"all six": "0,1,2,3,4,5", "the last": "5", "the third": "2"}
FASTER, MORE = 4.0, 0.6
STEPS = {"glassworks": (2, 5), "saelens": (1, 2)}


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
    parser.add_argument("--again", action="store_true", help="measure anew what is in the results already")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.budget_minutes
    old = json.loads(RESULTS.read_text())["cases"] if RESULTS.is_file() else []
    stale = options.threads if options.again else None
    cases = [each for each in old if "cpu" in each and each["threads"] != stale]
    for name, who in product(LAYERS, STEPS):
        place = {"who": who, "coders after": name, "threads": options.threads}
        if any(place.items() <= each.items() for each in cases):
            continue
        python = environment(options.environments, who) if who == "saelens" else Path(sys.executable)
        command = [python, f"run_live_{who}.py", LAYERS[name], 256, 4096, options.threads, *STEPS[who]]
        found = answer(command, options.threads, ends)
        if found is None:
            break
        cases.append(place | found)
        print(json.dumps(cases[-1]), flush=True)
        written = {"machine": machine("torch", "numba"), "comparisons": comparisons(cases), "cases": cases}
        RESULTS.write_text(json.dumps(written, indent=1) + "\n")
    for each in comparisons(cases):
        print(json.dumps(each))


if __name__ == "__main__":
    main()
