"""Checkpoints of crosslayer-transcoder: `checkpoint.safetensors` beside a `config.yaml` with class paths.

It reads the residual stream before the MLP's norm and writes the MLP's output. Decoders are grouped by output layer,
source layers first. A choice of the k largest over all layers at once ties the layers together: such a coder is one
crosscoder, its matrices zero between layers.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from glassworks.coders.activations import TopK
from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.entries import Entry, Provenance
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import coder_of, configured, entry, finite, folders, jumprelu, read_tensors
from glassworks.coders.weights import Matrix, resident
from glassworks.errors import Unsupported
from glassworks.sites import Site

CONFIG, WEIGHTS = "config.yaml", "checkpoint.safetensors"
FORMULA = (
    "a_l = activation(x_l @ encoder.W[l] + encoder.b[l]); y_o = sum over l <= o: a_l @ decoder.W_o[l] + decoder.b[o]"
)
NOTE = "sites as the library records them: the stream before the MLP's norm, and the MLP's output"


@dataclass(frozen=True)
class Size:
    """The encoder's arguments."""

    n_layers: int
    d_features: int


@dataclass(frozen=True)
class Encoder:
    """The encoder."""

    init_args: Size


@dataclass(frozen=True)
class Part:
    """Another part of the coder: its class, and its arguments."""

    class_path: str = ""
    init_args: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The class without its module."""
        return self.class_path.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class Parts:
    """The coder's arguments: its parts."""

    encoder: Encoder
    decoder: Part = field(default_factory=Part)
    nonlinearity: Part = field(default_factory=Part)
    input_standardizer: Any = None
    output_standardizer: Any = None


@dataclass(frozen=True)
class Model:
    """The model of a configuration."""

    init_args: Parts


def entries(files: Files) -> list[Entry]:
    """One entry a layer of a per-layer checkpoint, one for a joint one; the configurations are read."""
    heads = folders(files, WEIGHTS, CONFIG)
    if not heads or "crosslayer_transcoder" not in str(files.yaml(heads[0] + CONFIG)):
        return []
    return [each for head in heads for each in _entries(files, head)]


def _entries(files: Files, folder: str) -> list[Entry]:
    parts = configured(Model, files, folder + CONFIG, inside="model").init_args
    if parts.input_standardizer or parts.output_standardizer:
        raise Unsupported(f"The checkpoint {folder} still scales its inputs; fold it with its library first.")
    size, gate = parts.encoder.init_args, parts.nonlinearity
    label, n, k = folder.strip("/") or "clt", size.n_layers, (gate.init_args or {}).get("k") or 0
    together = "clt" if parts.decoder.name == "CrosslayerDecoder" else "crosscoder" if k else ""

    def one(layers: list[int]) -> Entry:
        reads = tuple(Site("resid_mid", layer) for layer in layers)
        writes = tuple(Site("mlp_out", layer) for layer in layers)

        def build() -> Coder:
            if gate.name not in ("JumpReLU", "LayerTopK"):
                raise Unsupported(f"The nonlinearity {gate.name} of crosslayer-transcoder is not supported.")
            tensors = read_tensors(files, folder + WEIGHTS)
            b_enc, b_dec = (finite(key, resident(tensors[key])) for key in ("encoder.b", "decoder.b"))
            if together == "crosscoder":
                w_enc, w_dec = resident(tensors["encoder.W"]).mT, resident(tensors["decoder.W"])
                weights: dict[str, Matrix] = {"w_enc": torch.block_diag(*w_enc), "b_enc": b_enc.flatten()}
                for layer, write in enumerate(writes):
                    rows = torch.zeros_like(w_dec)
                    rows[layer] = w_dec[layer]
                    weights |= {f"w_dec.{write}": rows.flatten(0, 1), f"b_dec.{write}": b_dec[layer]}
                return Crosscoder(reads, writes, TopK(max(int(k * n), 1)), weights)
            theta = resident(tensors["nonlinearity.theta"])[0]
            encoders = {
                layer: {"w_enc": tensors["encoder.W"].select(0, layer).mT, "b_enc": b_enc[layer]} for layer in layers
            }
            gates = {layer: jumprelu(theta[layer], theta.shape[-1]) for layer in layers}
            if not together:
                layer = layers[0]
                ends = {"w_dec": tensors["decoder.W"].select(0, layer), "b_dec": b_dec[layer]}
                return coder_of(reads[0], writes[0], encoders[layer] | ends, gates[layer])
            held = []
            for layer in layers:
                rows = {
                    f"w_dec.{write}": tensors[f"decoder.W_{write.layer}"].select(0, layer) for write in writes[layer:]
                }
                weights = encoders[layer] | rows | {f"b_dec.{writes[layer]}": b_dec[layer]}
                held.append(Crosscoder([reads[layer]], writes[layer:], gates[layer], weights))
            return CrossLayer(held, label).requires_grad_(False).eval()

        return entry(
            files,
            label if together else f"{label}/layer_{layers[0]}",
            [folder + WEIGHTS],
            (reads, writes),
            Provenance("crosslayer_transcoder", FORMULA, "", (NOTE,)),
            build,
            width=size.d_features * (n if together else 1),
            l0=float(k * n) if k else None,
            tags=(gate.name,),
            kind=together or "transcoder",
        )

    return [one(layers) for layers in ([list(range(n))] if together else [[layer] for layer in range(n)])]
