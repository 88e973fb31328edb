"""Edits: a batched patching sweep against single forward passes, and edited generation against unedited.

    python benchmarks/edits.py [THREADS]

The loop patches one cell a forward, with the same taps and the values captured beforehand, as other libraries do it;
both give the same numbers, which is checked. Clean and edited runs take turns, so that a busy machine slows both; with
one thread processor time is measured, which other processes do not change, with several the clock on the wall.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from common import machine, peak_mb

import glassworks as gw
from glassworks.edits import (
    FeatureRef,
    Metric,
    Pair,
    add_features,
    add_vector,
    agreement,
    approximate,
    cells,
    edges,
    exact_edges,
    project_out,
    sweep,
)
from glassworks.models import Model

RESULT = Path(__file__).parent / "results" / "edits.json"
REPEATS, NEW_TOKENS, CELLS = 3, 64, 200
DALLAS, OAKLAND = "The capital of the state containing Dallas is", "The capital of the state containing Oakland is"


def seconds(work: Callable[[], Any]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    work()
    return clock() - began


def medium() -> Model:
    """A random Llama of 10 layers and 384 directions: what fills the cores is the arithmetic, not the calls."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 8000, "hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 10}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=6, max_position_embeddings=64)
    return Model(transformers.LlamaForCausalLM(config).requires_grad_(False), name="random llama")


def pairs() -> dict[str, Pair]:
    """Pairs with 200 cells: layers times positions."""
    small, large = gw.load_model("smallworld"), medium()
    ids = torch.randint(10, 1900, (50,), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[7] = 5
    made = {"smallworld-m, 4 layers x 50 tokens": Pair(small, ids, other, Metric("#20 - #21", 20, 21))}
    made["random llama, 10 layers x 20 tokens"] = Pair(large, ids[:20], other[:20], Metric("#20 - #21", 20, 21))
    return made


@torch.no_grad()
def one_by_one(pair: Pair) -> torch.Tensor:
    model = pair.model
    values = model.capture(pair.clean, model.sites("resid_post"))
    found = []
    for cell in cells(model, "resid_post", len(pair.clean)):

        def tap(value: torch.Tensor, cell: Any = cell) -> torch.Tensor:
            value = value.clone()
            value[0, cell.position] = values[str(cell.site)][cell.position]
            return value

        with model.tapped({cell.site: tap}):
            logits = model.hf(input_ids=pair.corrupt[None], use_cache=False).logits
        found.append(pair.metric(logits[0, -1]))
    return torch.stack(found)


def patching(pair: Pair) -> dict[str, Any]:
    places = cells(pair.model, "resid_post", len(pair.clean))
    assert len(places) == CELLS
    exact = sweep(pair, places)
    singles: list[torch.Tensor] = []
    loops, batched = [], []
    for _ in range(REPEATS):
        loops.append(seconds(lambda: singles.append(one_by_one(pair))))
        batched.append(seconds(lambda: sweep(pair, places)))
    worst = float((exact.values - singles[0]).abs().max())
    assert worst < 1e-3, worst
    loop, quick = statistics.median(loops), statistics.median(batched)
    estimate = statistics.median([seconds(lambda: approximate(pair, places, method="integrated")) for _ in range(3)])
    return {
        "cells": len(places),
        "loop, seconds": round(loop, 4),
        "batched, seconds": round(quick, 4),
        "times faster": round(loop / quick, 2),
        "largest difference of the metric": worst,
        "integrated gradients, seconds": round(estimate, 4),
    }


def generation() -> dict[str, Any]:
    """Tokens a second with edits, as a share of those without."""
    model, scope = gw.load_model("smallworld"), gw.load_scope("smallworld")
    model.hf.generation_config.eos_token_id = None  # every text gets all its tokens
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    edits = {
        "a direction added": add_vector("resid_post.1", vector, by=0.1),
        "a direction projected out": project_out("resid_post.1", vector),
        "a feature added": add_features("mlp_in.2/17", 1.0, scope),
        "8 features added": add_features([FeatureRef("mlp_in.2", None, each) for each in range(8)], 1.0, scope),
    }
    shares = {}
    for name, edit in edits.items():
        clean, edited = [], []
        for _ in range(REPEATS):
            clean.append(seconds(lambda: model.generate(DALLAS, NEW_TOKENS)))
            with model.edit(edit):
                edited.append(seconds(lambda: model.generate(DALLAS, NEW_TOKENS)))
        slow, fast = statistics.median(edited), statistics.median(clean)
        shares[name] = {
            "unedited, tokens/s": round(NEW_TOKENS / fast, 1),
            "edited, tokens/s": round(NEW_TOKENS / slow, 1),
            "share": round(fast / slow, 3),
        }
    return shares


def agreements() -> dict[str, Any]:
    """How well approximations agree with exact patching on a real pair of prompts."""
    pair = Pair.of(gw.load_model("smallworld"), DALLAS, OAKLAND, "Austin - Sacramento")
    found: dict[str, Any] = {}
    for kind, heads in (("resid_post", False), ("mlp_out", False), ("attn_heads", True)):
        places = cells(pair.model, kind, len(pair.clean), heads=heads)
        exact = sweep(pair, places)
        for method in ("attribution", "integrated"):
            found[f"{method}, {kind}"] = agreement(
                exact.shares, approximate(pair, places, method=method).shares
            ).plain()
    for steps in (1, 8):
        scored = edges(pair, steps=steps)
        wanted = [(scored.senders[one], scored.receivers[other]) for one, other in scored.possible.nonzero().tolist()]
        exact = exact_edges(pair, wanted)
        found[f"eap-ig, {steps} steps, edges"] = agreement(exact, scored.scores[scored.possible]).plain()
    return found


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    clock = "processor time" if threads == 1 else "wall clock"
    figures = {
        "machine": machine("torch", "transformers") | {"threads": threads, "clock": clock},
        "patching": {name: patching(pair) for name, pair in pairs().items()},
        "generation": generation(),
        "agreement": agreements(),
        "peak MB": peak_mb(),
    }
    text = json.dumps(figures, indent=1)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
