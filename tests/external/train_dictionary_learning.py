"""dictionary_learning trains TopK autoencoders with its own trainer on rows that are given; see suites.py.

Inputs are scaled to mean square length 1 and biases scaled back, as its `trainSAE(normalize_activations=True)` does.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from dictionary_learning.trainers.top_k import TopKTrainer
from safetensors.torch import load_file


def train(plan: dict[str, Any], x: torch.Tensor, order: torch.Tensor, folder: Path) -> None:
    """Train one member and save it as the library does."""
    steps, layer = len(order), int(plan["read"].partition(".")[2])
    trainer = TopKTrainer(
        steps=steps,
        activation_dim=x.shape[1],
        dict_size=plan["width"],
        k=plan["k"],
        layer=layer,
        lm_name="gpt2",
        warmup_steps=min(1000, steps // 20),
        decay_start=steps - steps // 5,
        seed=0,
        device="cpu",
        submodule_name=f"resid_post_layer_{layer}",
    )
    # Its patience of ten million tokens would let no latent of a short run count as dead.
    trainer.dead_feature_threshold = round(0.05 * order.numel())
    size = x.square().sum(1).mean().sqrt()
    for step, rows in enumerate(order):
        trainer.update(step, x[rows] / size)
    trainer.ae.scale_biases(float(size))
    target = folder / plan["name"]
    target.mkdir(parents=True, exist_ok=True)
    torch.save(trainer.ae.state_dict(), target / "ae.pt")
    (target / "config.json").write_text(json.dumps({"trainer": trainer.config, "buffer": {"ctx_len": 256}}))


def main(home: Path, plan: Path) -> None:
    """Train all members."""
    torch.set_num_threads(1)
    values = load_file(home / "rows.safetensors")
    for each in json.loads(plan.read_text()):
        train(each, values[each["read"]], values["order"], home / "dictionary_learning")


main(Path(sys.argv[1]), Path(sys.argv[2]))
