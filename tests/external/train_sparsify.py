"""sparsify trains TopK transcoders, as its own trainer does, on rows that are given; see suites.py.

Its trainer reads from a language model only, so its step is repeated here: loss `fvu + auxk_alpha * auxk`, Adam at
2e-4 / sqrt(width / 2^14), output bias at the mean of the first batch. Both ends are scaled to mean square length 1,
which the library leaves to the user, and scaled back.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # its kernels want a GPU

import torch
from safetensors.torch import load_file
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig

AUXK = 1 / 32


def train(plan: dict[str, Any], x: torch.Tensor, y: torch.Tensor, order: torch.Tensor, folder: Path) -> None:
    """Train one member and save it as the library does."""
    torch.manual_seed(0)
    config = SparseCoderConfig(num_latents=plan["width"], k=plan["k"], transcode=True)
    coder = SparseCoder(x.shape[1], config)
    read, write = x.square().sum(1).mean().sqrt(), y.square().sum(1).mean().sqrt()
    optimiser = torch.optim.Adam(coder.parameters(), lr=2e-4 / (plan["width"] / 2**14) ** 0.5)
    steps, silent = len(order), torch.zeros(plan["width"], dtype=torch.long)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, steps))
    coder.b_dec.data = (y[order[0]] / write).mean(0)
    for rows in order:
        out = coder(x[rows] / read, y[rows] / write, dead_mask=silent > 0.05 * order.numel())
        (out.fvu + AUXK * out.auxk_loss).backward()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        silent += len(rows)
        silent[out.latent_indices.flatten()] = 0
    with torch.no_grad():
        coder.encoder.weight /= read
        coder.W_dec *= write
        coder.b_dec *= write
    coder.save_to_disk(folder / plan["name"] / f"layers.{plan['read'].partition('.')[2]}.mlp")


def rate(step: int, steps: int) -> float:
    """Up over a twentieth, level, down over the last fifth: the schedule of all in this comparison."""
    return min(1.0, (step + 1) / (min(1000, steps // 20) + 1), (steps - step) / (steps // 5))


def main(home: Path, plan: Path) -> None:
    """Train all members."""
    torch.set_num_threads(1)
    values = load_file(home / "rows.safetensors")
    for each in json.loads(plan.read_text()):
        train(each, values[each["read"]], values[each["write"]], values["order"], home / "sparsify")


main(Path(sys.argv[1]), Path(sys.argv[2]))
