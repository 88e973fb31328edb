"""dictionary_learning saves one coder of each of its classes, and what it computes with it."""

import json
import sys
from pathlib import Path

import torch
from common import TOKENS, D, F, fresh, randomize, record
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK

K = 6
CASES = {
    "AutoEncoder": lambda: AutoEncoder(D, F),
    "AutoEncoderNew": lambda: AutoEncoderNew(D, F),
    "GatedAutoEncoder": lambda: GatedAutoEncoder(D, F),
    "JumpReluAutoEncoder": lambda: JumpReluAutoEncoder(D, F),
    "AutoEncoderTopK": lambda: AutoEncoderTopK(D, F, K),
    "BatchTopKSAE": lambda: BatchTopKSAE(D, F, K),
    "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(D, F, K, [16, 32, 48]),
}


def main(folder: Path) -> None:
    """Write all cases."""
    torch.manual_seed(0)
    for name, make in CASES.items():
        release = fresh(folder / name)
        coder = randomize(make())
        if "BatchTopK" in name:
            coder.threshold.fill_(0.4)
        torch.save(coder.state_dict(), release / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "k": K, "layer": 3, "lm_name": "gpt2"}
        trainer["submodule_name"] = "resid_post_layer_3"
        (release / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
        x = torch.randn(TOKENS, D)
        with torch.no_grad():
            record(folder / name, x, coder.encode(x), coder(x))


main(Path(sys.argv[1]))
