"""SAELens saves one coder of each of its architectures, and what it computes with it."""

import sys
from pathlib import Path

import torch
from common import TOKENS, D, F, fresh, randomize, record
from sae_lens import SAE

COMMON = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu", "normalize_activations": "none"}
COMMON |= {"reshape_activations": "none"}
METADATA = {"model_name": "gpt2", "hook_name": "blocks.3.hook_resid_post", "sae_lens_version": "6.54.0"}
OUT = {"d_out": D}
CASES = {
    "layer_norm": {"architecture": "standard", "apply_b_dec_to_input": True, "normalize_activations": "layer_norm"},
    "constant_norm": {
        "architecture": "topk",
        "apply_b_dec_to_input": True,
        "normalize_activations": "constant_norm_rescale",
        "k": 5,
    },
    "standard": {"architecture": "standard", "apply_b_dec_to_input": False},
    "standard_centred": {"architecture": "standard", "apply_b_dec_to_input": True},
    "jumprelu": {"architecture": "jumprelu", "apply_b_dec_to_input": False},
    "jumprelu_centred": {"architecture": "jumprelu", "apply_b_dec_to_input": True},
    "gated": {"architecture": "gated", "apply_b_dec_to_input": True},
    "topk": {"architecture": "topk", "apply_b_dec_to_input": True, "k": 5, "rescale_acts_by_decoder_norm": False},
    "topk_rescaled": {
        "architecture": "topk",
        "apply_b_dec_to_input": False,
        "k": 5,
        "rescale_acts_by_decoder_norm": True,
    },
    "transcoder": {"architecture": "transcoder", "apply_b_dec_to_input": False, **OUT},
    "skip_transcoder": {"architecture": "skip_transcoder", "apply_b_dec_to_input": False, **OUT},
    "jumprelu_transcoder": {"architecture": "jumprelu_transcoder", "apply_b_dec_to_input": False, **OUT},
    "jumprelu_skip": {"architecture": "jumprelu_skip_transcoder", "apply_b_dec_to_input": False, **OUT},
}


def main(folder: Path) -> None:
    """Write all cases."""
    torch.manual_seed(0)
    for name, fields in CASES.items():
        hooks = {"hook_name": "blocks.3.ln2.hook_normalized", "hook_name_out": "blocks.3.hook_mlp_out"}
        metadata = METADATA | (hooks if "d_out" in fields else {})
        release = fresh(folder / name)
        sae = randomize(SAE.from_dict({**COMMON, **fields, "metadata": metadata}))
        sae.save_model(release)
        x = torch.randn(TOKENS, D)
        with torch.no_grad():
            record(folder / name, x, sae.encode(x), sae(x))


main(Path(sys.argv[1]))
