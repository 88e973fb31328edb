"""Speed and memory of coders against the dense matrix product, and against SAELens on the same weights.

    python benchmarks/coders.py              all cases, each in its own process, to benchmarks/results/coders.json
    python benchmarks/coders.py --one CASE   one case, to standard output
    python benchmarks/coders.py --peer PYTHON    an interpreter that has sae-lens beside what Glassworks needs

Encoding is compared with the bare encoder product and selection (`addmm`, compare, `nonzero`, gather), which any
implementation must do; sparse decoding with the dense decoder product. `load` opens a coder of 262,144 latents in
place and in full. `rows` reads 1,000 rows of a file of 10 GiB, written for it and removed again, once with the page
cache emptied and once with it warm. `clt` traces a random model of the size of Gemma 3 270M (small vocabulary) with a
random CLT of 12 GiB in the files and of the shape of Gemma Scope 2's 262k. Seconds of `speed` are CPU seconds on one
thread, the best of some rounds; all others are seconds on the clock.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import machine, peak_mb

RESULTS = Path(__file__).parent / "results" / "coders.json"
SIZES = {"16k": 16_384, "262k": 262_144}
WIDTHS = (640, 2304)
TOKENS = {"16k": 1024, "262k": 128}
L0 = 50
REPEATS = 4
ROWS, ROW_FILE = 1000, (1 << 20, 2560)  # 10 GiB in float32
GOALS = {"encode": 0.9, "decode": 5.0, "rows_seconds": 1.0, "rows_mb": 200}


def weights(latents: int, width: int) -> dict[str, Any]:
    """Random weights; about L0 latents are active a token on unit normal input."""
    import torch

    torch.manual_seed(0)
    made = {"w_enc": torch.randn(latents, width).div_(width**0.5), "w_dec": torch.randn(latents, width)}
    level = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - L0 / latents)))
    rest = {"b_enc": torch.zeros(latents), "b_dec": torch.randn(width), "threshold": torch.full((latents,), level)}
    return made | rest


def race(**runs: Callable[[], Any]) -> dict[str, float]:
    """CPU seconds of the fastest of some rounds each; in turn, so that a busy machine slows all; the first warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    return {name: min(each[1:]) for name, each in seconds.items()}


def speed(latents: str, width: int) -> dict[str, Any]:
    """Tokens per second of encoding and decoding, ours and the limits."""
    import torch

    from glassworks.coders import JumpReLU, Transcoder
    from glassworks.sites import Site

    count = TOKENS[latents]
    w = weights(SIZES[latents], width)
    x, loaded = torch.randn(count, width), peak_mb()
    site, threshold = Site("resid_post", 0), w["threshold"]
    coder = Transcoder(site, site, JumpReLU(threshold), {k: w[k] for k in ("w_enc", "b_enc", "w_dec", "b_dec")})
    coder.requires_grad_(False)
    found = coder.encode(x)
    encode_mb = peak_mb() - loaded
    coder.decode(found)
    decode_mb = peak_mb() - loaded
    dense = found.dense()

    def limit() -> Any:
        z = torch.addmm(w["b_enc"], x, w["w_enc"].T)
        where = (z > threshold).nonzero()
        return z[where[:, 0], where[:, 1]]

    took = race(
        encode=lambda: coder.encode(x),
        limit=limit,
        product=lambda: torch.addmm(w["b_enc"], x, w["w_enc"].T),
        sparse=lambda: coder.decode(found),
        dense=lambda: torch.addmm(w["b_dec"], dense, w["w_dec"]),
        **peer(w, x, dense),
    )
    rate = {name: round(count / each, 1) for name, each in took.items()}
    result = {
        "latents": SIZES[latents],
        "width": width,
        "tokens": count,
        "l0": round(len(found.values) / count, 1),
        "encode_tokens_per_s": rate["encode"],
        "encode_product_and_selection_tokens_per_s": rate["limit"],
        "encode_product_tokens_per_s": rate["product"],
        "encode_of_limit": round(took["limit"] / took["encode"], 3),
        "decode_tokens_per_s": rate["sparse"],
        "decode_dense_tokens_per_s": rate["dense"],
        "decode_of_dense": round(took["dense"] / took["sparse"], 1),
        "weights_mb": sum(each.nbytes for each in w.values()) >> 20,
        "encode_extra_mb": encode_mb,
        "decode_extra_mb": decode_mb,
        "error": float((coder.decode(found) - (dense @ w["w_dec"] + w["b_dec"])).abs().max()),
    }
    if "saelens_encode" in took:
        result |= {f"{name}_tokens_per_s": rate[name] for name in ("saelens_encode", "saelens_decode")}
        result["encode_of_saelens"] = round(took["saelens_encode"] / took["encode"], 2)
        result["decode_of_saelens"] = round(took["saelens_decode"] / took["sparse"], 1)
    return result


def peer(w: dict[str, Any], x: Any, dense: Any) -> dict[str, Callable[[], Any]]:
    """SAELens on the same weights, where it is installed; its latents are checked to be the same."""
    try:
        from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
    except ImportError:
        return {}
    import torch

    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=x.shape[1], d_sae=len(w["b_enc"]), apply_b_dec_to_input=False))
    given = {"W_enc": w["w_enc"].T.contiguous(), "W_dec": w["w_dec"]}
    for name, value in (given | {name: w[name] for name in ("b_enc", "b_dec", "threshold")}).items():
        getattr(sae, name).data = value
    sae.requires_grad_(False)
    assert torch.allclose(sae.encode(x), dense, atol=1e-4)
    return {"saelens_encode": lambda: sae.encode(x), "saelens_decode": lambda: sae.decode(dense)}


def load(width: int) -> dict[str, Any]:
    """Opening a coder of 262,144 latents in place and using some of its rows, against reading it whole."""
    import torch
    from safetensors.torch import save_file

    from glassworks.coders import JumpReLU, Transcoder, open_tensors
    from glassworks.sites import Site

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coder.safetensors"
        save_file(weights(SIZES["262k"], width), file)
        some = torch.randperm(SIZES["262k"])[:L0]

        def opened() -> Any:
            tensors = open_tensors(file)
            rest = {name: tensors[name].load() for name in ("b_enc", "b_dec")}
            site, threshold = Site("resid_post", 0), tensors["threshold"].load()
            return Transcoder(site, site, JumpReLU(threshold), rest | {n: tensors[n] for n in ("w_enc", "w_dec")})

        def lazily() -> None:
            opened().decoder_rows(some)

        def fully() -> None:
            opened().load()

        return {
            "file_mb": file.stat().st_size >> 20,
            "lazy_seconds": round(wall(lazily), 4),
            "full_seconds": round(wall(fully), 3),
        }


def wall(run: Callable[[], Any]) -> float:
    """Seconds on the clock, the best of two."""
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def rows() -> dict[str, Any]:
    """A thousand rows of 10 GiB, as a trace takes them."""
    import torch

    from glassworks.coders import open_tensors

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "decoder.safetensors"
        write(rows=file)
        generator = torch.Generator().manual_seed(0)
        result: dict[str, Any] = {"file_gib": file.stat().st_size / 2**30, "rows": ROWS, "row_bytes": ROW_FILE[1] * 4}
        for state in ("cold", "warm"):
            some = torch.randperm(ROW_FILE[0], generator=generator)[:ROWS]
            if state == "cold":
                forget(file)
            else:
                open_tensors(file)["w_dec"][some]
            before, began = peak_mb(), time.perf_counter()
            found = open_tensors(file)["w_dec"][some]
            result |= {f"{state}_seconds": round(time.perf_counter() - began, 4)}
            result |= {f"{state}_extra_mb": peak_mb() - before, f"{state}_found_mb": found.nbytes >> 20}
        return result


def write(**what: Path) -> None:
    """Write in another process, so that its memory does not count."""
    for name, path in what.items():
        subprocess.run([sys.executable, "-W", "ignore", __file__, f"--write-{name}", str(path)], check=True)


def write_rows(file: Path) -> None:
    """Ten GiB of real numbers, without holding them."""
    import numpy as np

    head = {"w_dec": {"dtype": "F32", "shape": ROW_FILE, "data_offsets": [0, ROW_FILE[0] * ROW_FILE[1] * 4]}}
    text = json.dumps(head).encode()
    block = np.random.default_rng(0).standard_normal((1 << 13, ROW_FILE[1]), dtype=np.float32)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _ in range(ROW_FILE[0] >> 13):
            block.tofile(stream)
        stream.flush()
        os.fsync(stream.fileno())


CLT_LAYERS, CLT_LATENTS, CLT_WIDTH, CLT_L0 = 18, 14_560, 640, 8


def clt() -> dict[str, Any]:
    """A trace of 24 tokens with a CLT that is never in memory."""
    import torch
    import transformers

    from glassworks import load_scope, trace
    from glassworks.models import Model

    config = transformers.Gemma3TextConfig(
        vocab_size=4096, hidden_size=CLT_WIDTH, intermediate_size=2048, num_hidden_layers=CLT_LAYERS,
        num_attention_heads=4, num_key_value_heads=1, head_dim=256, query_pre_attn_scalar=256, sliding_window=512,
        bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Model(transformers.AutoModelForCausalLM.from_config(config).eval())
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "gemma-scope-2-270m-pt" / "clt" / "width_262k_l0_big"
        folder.mkdir(parents=True)
        write(clt=folder)
        tokens, before = [2, *range(3, 26)], peak_mb()  # token 0 pads: its embedding is 0
        began = time.perf_counter()
        scope = load_scope(Path(root) / "gemma-scope-2-270m-pt")
        listed = time.perf_counter() - began
        took = []
        for _ in range(2):
            began = time.perf_counter()
            graph = trace(model, scope, tokens)
            took.append(round(time.perf_counter() - began, 2))
        features = int(graph.nodes.of("feature").sum())
        return {
            "files_gib": round(scope.entries[0].bytes / 2**30, 2),
            "features": features,
            "edges": graph.n_edges,
            "list_seconds": round(listed, 4),
            "first_seconds": took[0],
            "again_seconds": took[1],
            "extra_mb": peak_mb() - before,
            "active_rows_mb": features * (CLT_LAYERS + 1) // 2 * CLT_WIDTH * 4 >> 20,
            "conservation": float(graph.conservation.max()),
        }


def write_clt(folder: Path) -> None:
    """One file a layer, as Gemma Scope 2 has them: the decoder with zeros for layers below."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    w_dec = torch.randn(CLT_LATENTS, CLT_LAYERS, CLT_WIDTH).mul_(0.01)
    level = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - CLT_L0 / CLT_LATENTS)))
    for layer in range(CLT_LAYERS):
        w_dec[:, :layer] = 0
        tensors = {"w_enc": torch.randn(CLT_WIDTH, CLT_LATENTS).div_(CLT_WIDTH**0.5), "w_dec": w_dec}
        tensors |= {"b_enc": torch.zeros(CLT_LATENTS), "b_dec": torch.zeros(CLT_WIDTH)}
        tensors["threshold"] = torch.full((CLT_LATENTS,), level)
        save_file(tensors, folder / f"params_layer_{layer}.safetensors")


def forget(file: Path) -> None:
    """Drop the file from the page cache."""
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"speed {width} {latents}": lambda w=width, n=latents: speed(n, w) for width in WIDTHS for latents in SIZES},
    **{f"load {width}": lambda w=width: load(w) for width in WIDTHS},
    "rows": rows,
    "clt": clt,
}


def verdict(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each goal of the issue with the worst figure measured for it."""
    speeds = [each for name, each in found.items() if name.startswith("speed")]
    measured = {
        "encode": min(each["encode_of_limit"] for each in speeds),
        "decode": min(each["decode_of_dense"] for each in speeds if each["latents"] == SIZES["16k"]),
        "rows_seconds": max(found["rows"][f"{state}_seconds"] for state in ("cold", "warm")),
        "rows_mb": max(found["rows"][f"{state}_extra_mb"] for state in ("cold", "warm")),
    }
    higher = {"encode", "decode"}
    met = {key: (measured[key] >= goal if key in higher else measured[key] < goal) for key, goal in GOALS.items()}
    return {key: {"goal": GOALS[key], "measured": measured[key], "met": met[key]} for key in GOALS}


def main() -> None:
    """Run all cases, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=list(CASES))
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--again", nargs="+", choices=list(CASES), help="only these, into the results as they are")
    parser.add_argument("--write-clt", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write-rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_clt or options.write_rows:
        write_clt(options.write_clt) if options.write_clt else write_rows(options.write_rows)
        return
    if options.one:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(CASES[options.one]() | {"machine": machine("torch", "numpy", "safetensors", "sae-lens")}))
        return
    root = str(Path(__file__).parents[1])
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    found = json.loads(RESULTS.read_text())["cases"] if options.again else {}
    for case in options.again or CASES:
        command = [options.peer, "-W", "ignore", __file__, "--one", case]
        done = subprocess.run(command, env=quiet, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{case} failed:\n{done.stderr}")
        found[case] = json.loads(done.stdout.splitlines()[-1])
        ran_on = found[case].pop("machine")
        print(f"{case}: {json.dumps(found[case])}", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    report = {"machine": ran_on, "goals": verdict(found), "cases": found}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
