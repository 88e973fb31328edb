"""CPU seconds and peak memory of a full trace: every row, nothing pruned, scores included.

    python benchmarks/trace.py              all cases, each in its own process, to benchmarks/results/trace.json
    python benchmarks/trace.py --one CASE   one case, to standard output
    python benchmarks/trace.py --model FOLDER --scope FOLDER    other weights than the embedded ones

`small` is the small per-layer case of circuit-tracer's comparison (random weights, 24 tokens, L0 32), for which
circuit-tracer 0.4.1 took 11.6 CPU seconds; the limit here is 2. The others trace the embedded model, against the
number of tokens and of active features.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import machine, peak_mb

RESULTS = Path(__file__).parent / "results" / "trace.json"
LIMIT = 2.0
TOKENS, ACTIVE = (8, 16, 32, 64), (4, 8, 16, 32)
REPEATS = 3


def small() -> tuple[Any, Any, list[int]]:
    """A random Gemma 3 with random transcoders: 6 layers, d 256, 4,096 features, L0 32, 24 tokens."""
    import torch
    import transformers

    from glassworks.coders import JumpReLU, Scope, Transcoder
    from glassworks.models import Model
    from glassworks.sites import Site

    layers, width, features, vocabulary, l0, count = 6, 256, 4096, 4096, 32, 24
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=1024, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, query_pre_attn_scalar=64, sliding_window=512,
        max_position_embeddings=2048, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    hf = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(std=weight.shape[1] ** -0.5 if weight.ndim == 2 else 0.1)
    model = Model(hf)
    tokens = [0, *torch.randint(1, vocabulary, (count - 1,)).tolist()]
    coders = {}
    for layer in range(layers):
        read, write = Site("mlp_in", layer), Site("mlp_out", layer)
        w_enc, w_dec = (torch.nn.functional.normalize(torch.randn(features, width), dim=1) for _ in range(2))
        values = model.capture(tokens, [read])[read.name][1:] @ w_enc.T
        threshold = torch.full((features,), float(values.flatten().topk(l0 * (count - 1) + 1).values.min()))
        weights = {"w_enc": w_enc, "b_enc": torch.zeros(features), "w_dec": 0.1 * w_dec, "b_dec": torch.zeros(width)}
        coders[read.name] = Transcoder(read, write, JumpReLU(threshold), weights)
    return model, Scope("random", "random", coders, list(coders), untrained=("bos",)), tokens


def embedded(model_name: str, scope_name: str, count: int, active: int | None) -> tuple[Any, Any, list[int]]:
    """A model with its scope on a prompt of so many tokens; with `active`, coders keep so many latents a token."""
    from glassworks import load_model, load_scope
    from glassworks.coders import TopK
    from glassworks.smallworld import stream

    model, scope = load_model(model_name), load_scope(scope_name)
    text = " ".join(document.text for document, _ in zip(stream(0, 0), range(8), strict=False))
    if active is not None:
        for coder in scope.coders.values():
            coder.activation = TopK(active)
    return model, scope, model.tokens(text)[:count].tolist()


CASES: dict[str, tuple[int, int | None]] = {
    **{f"tokens {count}": (count, None) for count in TOKENS},
    **{f"active {active}": (32, active) for active in ACTIVE},
}


def measure(case: str, model_name: str, scope_name: str) -> dict[str, Any]:
    """Trace one case a few times in this process; the first time is reported on its own."""
    import torch

    from glassworks import trace

    torch.set_num_threads(1)
    model, scope, tokens = small() if case == "small" else embedded(model_name, scope_name, *CASES[case])
    loaded = peak_mb()
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        graph = trace(model, scope, tokens)
        seconds.append(round(time.process_time() - began, 4))
    began = time.process_time()
    graph.prune()
    pruned = round(time.process_time() - began, 4)
    return {
        "case": case,
        "tokens": len(tokens),
        "features": int(graph.nodes.of("feature").sum()),
        "nodes": len(graph.nodes),
        "edges": graph.n_edges,
        "first_cpu_seconds": seconds[0],
        "cpu_seconds": min(seconds),
        "prune_cpu_seconds": pruned,
        "loaded_peak_mb": loaded,
        "peak_mb": peak_mb(),
        "conservation": float(graph.conservation.max()),
    }


def main() -> None:
    """Run all cases, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=["small", *CASES])
    parser.add_argument("--model", default="smallworld")
    parser.add_argument("--scope", default="smallworld")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.model, options.scope)))
        return
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    found = []
    for case in ("small", *CASES):
        command = [sys.executable, __file__, "--one", case, "--model", options.model, "--scope", options.scope]
        done = subprocess.run(command, env=quiet, check=True, stdout=subprocess.PIPE, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        print(f"{case:12} {result['cpu_seconds']:7.3f} s  {result['peak_mb']:6} MB  {result['features']} features")
        found.append(result)
    ok = found[0]["cpu_seconds"] <= LIMIT
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    report = {"benchmark": "trace", "machine": machine("torch", "transformers"), "model": Path(options.model).name}
    report |= {"limit_seconds": LIMIT, "within_limit": ok, "cases": found}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if not ok:
        sys.exit(f"The small case took {found[0]['cpu_seconds']} s; the limit is {LIMIT} s.")


if __name__ == "__main__":
    main()
