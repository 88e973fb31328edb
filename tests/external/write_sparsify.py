"""sparsify saves autoencoders and transcoders, and what it computes with them."""

import os
import sys
from pathlib import Path

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # its kernels want a GPU

import torch
from common import TOKENS, D, F, fresh, randomize, record
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig

CASES = {
    "topk": {},
    "groupmax": {"activation": "groupmax"},
    "transcoder": {"transcode": True},
    "skip_transcoder": {"transcode": True, "skip_connection": True},
}


def main(folder: Path) -> None:
    """Write all cases."""
    torch.manual_seed(0)
    for name, fields in CASES.items():
        release = fresh(folder / name)
        coder = randomize(SparseCoder(D, SparseCoderConfig(num_latents=F, k=6, **fields)))
        coder.save_to_disk(release / "layers.3.mlp")
        x = torch.randn(TOKENS, D)
        with torch.no_grad():
            chosen = coder.encode(x)
            latents = torch.zeros(TOKENS, F).scatter(1, chosen.top_indices, chosen.top_acts)
            record(folder / name, x, latents, coder(x).sae_out)


main(Path(sys.argv[1]))
