"""circuit-tracer saves transcoders, and reads Gemma Scope 2's files: what it computes with both."""

import json
import sys
from pathlib import Path

import torch
from circuit_tracer.transcoder.activation_functions import JumpReLU
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_gemma_scope_2_clt
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, load_gemma_scope_2_transcoder
from common import TOKENS, D, F, fresh, randomize, record
from safetensors.torch import save_file

LAYERS = 3
CPU = torch.device("cpu")
CONFIG = {"model_name": "Qwen/Qwen3-4B", "model_kind": "transcoder_set"}
CONFIG |= {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}


def single(folder: Path, skip: bool, jump: bool) -> None:
    """A set of one layer, in the library's own files."""
    release = fresh(folder)
    gate = JumpReLU(torch.zeros(F), 0.1) if jump else torch.nn.functional.relu
    coder = randomize(SingleLayerTranscoder(D, F, gate, 0, skip_connection=skip, device=CPU, dtype=torch.float32))
    coder.to_safetensors(str(release / "layer_0.safetensors"))
    (release / "config.yaml").write_text(json.dumps(CONFIG))  # JSON is YAML
    x = torch.randn(TOKENS, D)
    with torch.no_grad():
        record(folder, x, coder.encode(x), coder(x))


def gemma(affine: bool, joint: bool) -> dict[str, torch.Tensor]:
    """One file of Gemma Scope 2."""
    shapes = {"w_enc": (D, F), "w_dec": (F, D), "b_enc": (F,), "b_dec": (D,)} | (
        {"w_dec": (F, LAYERS, D)} if joint else {}
    )
    tensors = {name: torch.randn(shape) / 4 for name, shape in shapes.items()} | {"threshold": torch.rand(F)}
    return tensors | ({"affine_skip_connection": torch.randn(D, D)} if affine else {})


def gemma_single(folder: Path, affine: bool) -> None:
    """A transcoder of Gemma Scope 2, read by the library."""
    name = f"transcoder_all/layer_1_width_16k_l0_small{'_affine' if affine else ''}"
    file = fresh(folder) / name / "params.safetensors"
    file.parent.mkdir(parents=True)
    save_file(gemma(affine, False), file)
    coder, x = load_gemma_scope_2_transcoder(str(file), 1, CPU), torch.randn(TOKENS, D)
    with torch.no_grad():
        record(folder, x, coder.encode(x), coder(x))


def cross_layer(folder: Path, coder: CrossLayerTranscoder) -> None:
    """What the library computes with a cross-layer transcoder; its layers come first, ours after the tokens."""
    x = torch.randn(LAYERS, TOKENS, D)
    with torch.no_grad():
        latents = coder.encode(x)
        y = coder.decode(latents.to_sparse(), x)
    record(folder, x.transpose(0, 1), latents.transpose(0, 1).flatten(1), y.transpose(0, 1))


def gemma_cross_layer(folder: Path, affine: bool) -> None:
    """A cross-layer transcoder of Gemma Scope 2; the library needs the last file twice to read all of them."""
    where = fresh(folder) / f"clt/width_262k_l0_big{'_affine' if affine else ''}"
    where.mkdir(parents=True)
    files = {layer: str(where / f"params_layer_{layer}.safetensors") for layer in range(LAYERS)}
    for layer, file in files.items():
        tensors = gemma(affine, True)
        tensors["w_dec"][:, :layer] = 0
        save_file(tensors, file)
    cross_layer(folder, load_gemma_scope_2_clt(files | {LAYERS: files[LAYERS - 1]}, device=CPU, dtype=torch.float32))


def own_cross_layer(folder: Path) -> None:
    """A cross-layer transcoder in the library's own files."""
    release = fresh(folder)
    coder = CrossLayerTranscoder(LAYERS, F, D, "relu", lazy_decoder=False, device=CPU, dtype=torch.float32)
    coder = randomize(coder)
    coder.to_safetensors(str(release))
    cross_layer(folder, coder)


def main(folder: Path) -> None:
    """Write all cases."""
    torch.manual_seed(0)
    for skip in (False, True):
        single(folder / f"relu{'_skip' * skip}", skip, False)
        single(folder / f"jumprelu{'_skip' * skip}", skip, True)
        gemma_single(folder / f"gemma_scope_2{'_affine' * skip}", skip)
        gemma_cross_layer(folder / f"gemma_scope_2_clt{'_affine' * skip}", skip)
    own_cross_layer(folder / "clt")


main(Path(sys.argv[1]))
