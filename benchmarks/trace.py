"""CPU seconds and peak memory of traces, against the time that their matrix products alone must take.

    python benchmarks/trace.py              all cases, each in its own process, to benchmarks/results/trace.json
    python benchmarks/trace.py --one CASE   one case, to standard output
    python benchmarks/trace.py --only TEXT  the cases whose name holds a text, put among the results that are there

The cases of circuit-tracer's comparison (random weights, 24 tokens, JumpReLU at L0 32; see `random_case`) must stay
within 1.25 times the sweep's floating-point operations divided by the rate of a large matrix product, measured in the
same process. circuit-tracer 0.4.1 took 11.6 (small, per layer), 24.8 (small, cross-layer), 94.7 (large, per layer) and
323.9 (large, cross-layer) CPU seconds on the same sizes. `rows` computes the 2,048 most influential features' rows of
the large case; `tokens` and `active` grow a small case; `long` traces 2,000 tokens of a model of the size of
stories260K within 8 GB; `embedded` traces the embedded model. The results hold every limit and whether it was met, and
are written after each case; a case of more than 240 CPU seconds is left out by name.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import machine, peak_mb

RESULTS = Path(__file__).parent / "results" / "trace.json"
RATIO, SHARE, PRUNE_SECONDS, PRUNE_MB, LONG_MB, RESIDUAL = 1.25, 0.35, 0.3, 1500, 8000, 1e-5
CPU_SECONDS = 240  # a case that takes more is left out
SIZES = {  # layers, width, features, heads, key-value heads, width of a head, hidden width of an MLP
    "small": (6, 256, 4096, 4, 2, 64, 1024),
    "large": (12, 512, 16384, 8, 4, 64, 2048),
    "stories": (5, 64, 2048, 8, 4, 8, 172),
}
VOCABULARY = 4096


def random_case(size: str, kind: str, count: int = 24, l0: int = 32) -> tuple[Any, Any, list[int]]:
    """A random Gemma 3 with random transcoders (kind `plt`) or a random cross-layer transcoder (`clt`)."""
    import torch
    import transformers

    from glassworks.models import Model

    layers, width, features, heads, kv_heads, d_head, hidden = SIZES[size]
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=d_head, query_pre_attn_scalar=d_head,
        sliding_window=512, max_position_embeddings=4096, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    hf = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(std=weight.shape[1] ** -0.5 if weight.ndim == 2 else 0.1)
    model = Model(hf.requires_grad_(False))
    tokens = [0, *torch.randint(1, VOCABULARY, (count - 1,)).tolist()]
    return model, random_scope(model, kind, features, tokens, l0), tokens


def random_scope(model: Any, kind: str, features: int, tokens: list[int], l0: int) -> Any:
    """Unit encoders, decoders of 0.1 units, one threshold a layer such that `l0` features are active a token."""
    import torch

    from glassworks.coders import Crosscoder, CrossLayer, JumpReLU, Scope, Transcoder
    from glassworks.sites import Site

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)

    coders = []
    for layer in range(model.n_layers):
        read = Site("mlp_in" if kind == "plt" else "resid_mid", layer)
        writes = [Site("mlp_out", upper) for upper in range(layer, layer + 1 if kind == "plt" else model.n_layers)]
        w_enc = unit(features, model.d_model)
        values = model.capture(tokens, [read])[read.name][1:] @ w_enc.T
        threshold = torch.full((features,), float(values.flatten().topk(l0 * len(values) + 1).values.min()))
        weights = {"w_enc": w_enc, "b_enc": torch.zeros(features)}
        if kind == "plt":
            weights |= {"w_dec": 0.1 * unit(features, model.d_model), "b_dec": torch.zeros(model.d_model)}
            coders.append(Transcoder(read, writes[0], JumpReLU(threshold), weights))
            continue
        size = 0.1 / len(writes) ** 0.5
        weights |= {f"w_dec.{site}": size * unit(features, model.d_model) for site in writes}
        weights |= {f"b_dec.{writes[0]}": torch.zeros(model.d_model)}
        coders.append(Crosscoder([read], writes, JumpReLU(threshold), weights))
    named = {"clt": CrossLayer(coders)} if kind == "clt" else {coder.id: coder for coder in coders}
    for coder in named.values():
        coder.requires_grad_(False)
    return Scope("random", "random", named, list(named), untrained=("bos",))


def embedded_case(count: int) -> tuple[Any, Any, list[int]]:
    """The embedded model with its scope on a prompt of so many tokens."""
    from glassworks import load_model, load_scope
    from glassworks.smallworld import stream

    model, scope = load_model("smallworld"), load_scope("smallworld")
    text = " ".join(document.text for document, _ in zip(stream(0, 0), range(8), strict=False))
    return model, scope, model.tokens(text)[:count].tolist()


Case = tuple[Callable[[], tuple[Any, Any, list[int]]], int, dict[str, Any]]  # inputs, threads, budget


def cases() -> dict[str, Case]:
    """Every case by name."""

    def made(*options: Any) -> Callable[[], tuple[Any, Any, list[int]]]:
        return lambda: random_case(*options)

    pairs = [(size, kind) for size in ("small", "large") for kind in ("plt", "clt")]
    found: dict[str, Case] = {f"{size} {kind} 1 threads": (made(size, kind), 1, {}) for size, kind in pairs}
    found |= {f"rows {kind} 2048": (made("large", kind), 1, {"rows": 2048}) for kind in ("plt", "clt")}
    found["long 2000"] = (made("stories", "plt", 2000), 1, {"seconds": 120, "memory": "6GB"})
    found |= {f"tokens {count}": (made("small", "plt", count, 16), 1, {}) for count in (12, 24, 48, 96)}
    found |= {f"tokens {n} 1024 rows": (made("small", "plt", n, 16), 1, {"rows": 1024}) for n in (96, 192, 384)}
    found |= {f"active {l0}": (made("small", "plt", 24, l0), 1, {}) for l0 in (8, 16, 32, 64)}
    found |= {f"embedded {count}": (lambda count=count: embedded_case(count), 1, {}) for count in (8, 32)}
    found |= {f"{size} {kind} 2 threads": (made(size, kind), 2, {}) for size, kind in pairs}
    return found


def operations(model: Any, graph: Any) -> float:
    """Floating-point operations that any sweep of these rows needs: products with weights, patterns and sources."""
    import torch

    nodes, tokens, d = graph.nodes, len(graph.tokens), model.d_model
    query, key = model.n_heads * model.d_head, model.n_kv_heads * model.d_head
    coders = (
        {} if graph.scope is None else {int(p.split(".")[1]): graph.scope[n] for p, n in graph.origin.coders.items()}
    )
    written = torch.zeros(model.n_layers + 1, tokens)  # vectors by stage and position, embeddings first
    written[0] = 1
    for layer in range(model.n_layers):
        written[layer + 1] += torch.bincount(
            nodes.position[nodes.of("error") & (nodes.layer == layer)], minlength=tokens
        )
        here = torch.bincount(nodes.position[nodes.of("feature") & (nodes.layer == layer)], minlength=tokens)
        for site in coders[layer].writes if layer in coders else ():
            written[site.layer + 1] += here
    below = written.cumsum(0).cumsum(1)
    total = 0.0
    for layer, position, kind in zip(
        *(each[graph.rows].tolist() for each in (nodes.layer, nodes.position, nodes.kinds)), strict=True
    ):
        q = position + 1
        full = layer * (2 * q * d * (query + key) + q * (q + 1) * query)
        enter = 2 * d * (query + query) + 2 * q * model.n_heads * d if kind == 0 else 0
        total += full + enter + 2 * d * float(below[min(layer, model.n_layers), position])
    return total


def gemm_rate() -> float:
    """Operations a CPU second of a large matrix product, the median of several."""
    import torch

    a, b = torch.randn(2048, 512), torch.randn(512, 512)
    rates = []
    for _ in range(15):
        began = time.process_time()
        for _ in range(4):
            torch.mm(a, b)
        rates.append(4 * 2 * 2048 * 512 * 512 / (time.process_time() - began))
    return sorted(rates)[len(rates) // 2]


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a function gives, its wall seconds and its CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    return work(), time.perf_counter() - wall, time.process_time() - cpu


def measure(case: str) -> dict[str, Any]:
    """Trace one case in this process."""
    import torch

    from glassworks import Budget, trace

    make, threads, budget = cases()[case]
    torch.set_num_threads(threads)
    model, scope, tokens = make()
    trace(model, scope, tokens[:4])  # what is loaded once is not counted
    loaded, before = peak_mb(), gemm_rate()
    graph, wall, cpu = timed(lambda: trace(model, scope, tokens, budget=Budget(**budget)))
    rate = (before + gemm_rate()) / 2
    traced = peak_mb()
    facts = {
        "case": case,
        "load": os.getloadavg()[0],
        "tokens": len(tokens),
        "features": int(graph.nodes.of("feature").sum()),
        "rows": len(graph.rows),
        "edges": graph.n_edges,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "sweep_gigaflop": operations(model, graph) / 1e9,
        "gemm_gigaflops": rate / 1e9,
        "loaded_peak_mb": loaded,
        "peak_mb": traced,
        "matrix_mb": graph.matrix.nbytes / 2**20,
        "unexplored": graph.unexplored,
        "conservation": graph.residual,
    }
    facts["ratio"] = cpu / (facts["sweep_gigaflop"] / facts["gemm_gigaflops"])
    small, _, pruning = timed(graph.prune)
    _, _, scoring = timed(
        lambda: type(graph).build(graph.origin, graph.nodes, graph.matrix, graph.bias, graph.values, rows=graph.rows)
    )
    return facts | {
        "prune_cpu_seconds": pruning,
        "scores_cpu_seconds": scoring,
        "kept": len(small.nodes),
        "prune_peak_mb": peak_mb() - loaded,
    }


def limits(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every limit that the measured cases have, what was found, and whether it was kept."""
    rows: list[tuple[str, str, float, float]] = []
    for name, each in found.items():
        rows.append((name, "conservation residual", each["conservation"], RESIDUAL))
        if " threads" in name:
            rows.append((name, "CPU seconds over those of its matrix products", each["ratio"], RATIO))
        if name.startswith("large"):
            seconds = each["prune_cpu_seconds"] + each["scores_cpu_seconds"]
            rows.append((name, "CPU seconds of pruning and scores", seconds, PRUNE_SECONDS))
            rows.append((name, "MB beside the model when pruned", each["prune_peak_mb"], PRUNE_MB))
        if name.startswith("long"):
            rows.append((name, "MB at the peak", each["peak_mb"], LONG_MB))
    for kind in ("plt", "clt"):
        few, full = found.get(f"rows {kind} 2048"), found.get(f"large {kind} 1 threads")
        if few and full:
            rows.append(
                (f"rows {kind} 2048", "share of the full trace", few["cpu_seconds"] / full["cpu_seconds"], SHARE)
            )
    return [
        {"case": case, "what": what, "found": got, "limit": most, "met": got <= most} for case, what, got, most in rows
    ]


def earlier() -> dict[str, dict[str, Any]]:
    """The cases that an earlier run left."""
    if not RESULTS.is_file():
        return {}
    return {each["case"]: each for each in json.loads(RESULTS.read_text(encoding="utf-8"))["cases"] if "load" in each}


def save(found: dict[str, dict[str, Any]], left_out: dict[str, str]) -> list[dict[str, Any]]:
    """Write what is known so far, in the order of the cases; the limits."""
    ordered = {name: found[name] for name in cases() if name in found}
    held = limits(ordered)
    report = {"benchmark": "trace", "machine": machine("torch", "transformers"), "limits": held}
    report |= {"left_out": left_out, "cases": list(ordered.values())}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return held


def run(case: str) -> dict[str, Any] | str:
    """One case in its own process, or why it gave nothing."""
    threads = str(cases()[case][1])
    quiet = {**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, __file__, "--one", case], env=quiet, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        late = done.returncode == -signal.SIGXCPU
        return f"more than {CPU_SECONDS} CPU seconds" if late else f"ended with status {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run all cases, or some; results are written after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=list(cases()))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if options.one:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        print(json.dumps(measure(options.one)))
        return
    found, left_out = earlier() if options.only else {}, {}
    held: list[dict[str, Any]] = []
    for case in cases():
        if options.only not in case:
            continue
        each = run(case)
        if isinstance(each, str):
            left_out[case] = each
            print(f"{case:22} left out: {each}", flush=True)
        else:
            found[case] = each
            print(
                f"{case:22} {each['cpu_seconds']:8.2f} s CPU  x{each['ratio']:5.2f}  {each['peak_mb']:6} MB  "
                f"{each['rows']:6} rows  {each['unexplored']:.1%} unexplored", flush=True,
            )  # fmt: skip
        held = save(found, left_out)
    missed = [each for each in held if not each["met"]]
    lines = [f"{each['case']}: {each['what']} {each['found']:.3g}, the limit is {each['limit']:g}" for each in missed]
    sys.exit("\n".join(lines) or None)


if __name__ == "__main__":
    main()
