"""The libraries read what we exported, and write down what they compute; runs in their environment."""

import os
import sys
from pathlib import Path

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")

import torch
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder
from sae_lens import SAE
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder

CPU = torch.device("cpu")


def saelens(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """The reconstruction by SAELens."""
    (config,) = folder.rglob("cfg.json")
    return SAE.load_from_disk(config.parent, device="cpu")(x)


def sparsify(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """The reconstruction by sparsify."""
    (coder,) = SparseCoder.load_many(str(folder), local=True).values()
    return coder(x).sae_out


def circuit_tracer(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """The reconstruction by circuit-tracer, of one layer or of all."""
    if (folder / "W_enc_0.safetensors").is_file():
        coder = load_clt(str(folder), device=CPU, dtype=torch.float32, lazy_decoder=False)
        return coder.decode(coder.encode(x.transpose(0, 1)).to_sparse()).transpose(0, 1)
    return load_relu_transcoder(str(folder / "layer_0.safetensors"), 0, CPU, lazy_encoder=False, lazy_decoder=False)(x)


READERS = {"saelens": saelens, "sparsify": sparsify, "circuit_tracer": circuit_tracer}


def main(root: Path) -> None:
    """Read every `exported-<layout>` below a folder."""
    for folder in sorted(root.rglob("exported-*")):
        x = load_file(folder.parent / "reference.safetensors")["x"]
        with torch.no_grad():
            y = READERS[folder.name.removeprefix("exported-")](folder, x)
        save_file({"reconstruction": y.detach().contiguous()}, folder / "back.safetensors")


main(Path(sys.argv[1]))
