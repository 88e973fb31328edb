"""A library reads what we exported, and writes down what it computes; runs in that library's environment."""

import os
import sys
from pathlib import Path

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")

import torch
from safetensors.torch import load_file, save_file

CPU = torch.device("cpu")


def saelens(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """The reconstruction by SAELens."""
    from sae_lens import SAE

    (config,) = folder.rglob("cfg.json")
    return SAE.load_from_disk(config.parent, device="cpu")(x)


def sparsify(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """The reconstruction by sparsify."""
    from sparsify import SparseCoder

    (coder,) = SparseCoder.load_many(str(folder), local=True).values()
    return coder(x).sae_out


def circuit_tracer(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """The reconstruction by circuit-tracer, of one layer or of all."""
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
    from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder

    if (folder / "W_enc_0.safetensors").is_file():
        coder = load_clt(str(folder), device=CPU, dtype=torch.float32, lazy_decoder=False)
        return coder.decode(coder.encode(x.transpose(0, 1)).to_sparse()).transpose(0, 1)
    return load_relu_transcoder(str(folder / "layer_0.safetensors"), 0, CPU, lazy_encoder=False, lazy_decoder=False)(x)


READERS = {"saelens": saelens, "sparsify": sparsify, "circuit_tracer": circuit_tracer}


def main(root: Path, layout: str) -> None:
    """Read every `exported-<layout>` below a folder."""
    for folder in sorted(root.rglob(f"exported-{layout}")):
        x = load_file(folder.parent / "reference.safetensors")["x"]
        with torch.no_grad():
            y = READERS[layout](folder, x)
        save_file({"reconstruction": y.detach().contiguous()}, folder / "back.safetensors")


main(Path(sys.argv[1]), sys.argv[2])
