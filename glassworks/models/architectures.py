"""The table of model families: where each one keeps the parts that Glassworks reads.

One row per family; everything else in this room is the same for all. A new family of the usual kind is a new
row. This module must not know what is done with the parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from torch import nn

from glassworks.errors import Unsupported

PRE_NORM = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
POST_NORM = {"attn_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}
BOTH_NORMS = POST_NORM | {"attn_norm": "input_layernorm", "mlp_norm": "pre_feedforward_layernorm"}


@dataclass(frozen=True)
class Architecture:
    """Names of a family's modules, and the few ways in which families differ.

    Attributes:
        family: its name in Hugging Face's terms.
        norms: which of attn_norm, attn_post_norm, mlp_norm, mlp_post_norm it has, and their names in a layer.
        stack: path of the module that holds the layers and the final norm.
        layers: name of the list of layers in the stack.
        final_norm: name of the norm before the unembedding in the stack.
        attention: name of attention in a layer.
        values: name in attention of the projection to values, or of one fused projection that ends with them.
        output: name in attention of the projection back to the residual stream.
        down: name in the MLP of the projection back to the residual stream.
        gain_offset: what is added to a norm's weight to give its gain.
        interleaved: whether the fused projection keeps (query, key, value) of each head together.
    """

    family: str
    norms: Mapping[str, str] = field(default_factory=lambda: PRE_NORM)
    stack: str = "model"
    layers: str = "layers"
    final_norm: str = "norm"
    attention: str = "self_attn"
    values: str = "v_proj"
    output: str = "o_proj"
    down: str = "down_proj"
    gain_offset: float = 0.0
    interleaved: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    "Gemma2ForCausalLM": Architecture("gemma2", BOTH_NORMS, gain_offset=1.0),
    "Gemma3ForCausalLM": Architecture("gemma3", BOTH_NORMS, gain_offset=1.0),
    "Gemma3ForConditionalGeneration": Architecture("gemma3", BOTH_NORMS, stack="model.language_model", gain_offset=1.0),
    "GPT2LMHeadModel": Architecture(
        "gpt2",
        {"attn_norm": "ln_1", "mlp_norm": "ln_2"},
        stack="transformer",
        layers="h",
        final_norm="ln_f",
        attention="attn",
        values="c_attn",
        output="c_proj",
        down="c_proj",
    ),
    "GPTNeoXForCausalLM": Architecture(
        "gpt_neox",
        stack="gpt_neox",
        final_norm="final_layer_norm",
        attention="attention",
        values="query_key_value",
        output="dense",
        down="dense_4h_to_h",
        interleaved=True,
    ),
    "LlamaForCausalLM": Architecture("llama"),
    "MistralForCausalLM": Architecture("mistral"),
    "Olmo2ForCausalLM": Architecture("olmo2", POST_NORM),
    "Phi3ForCausalLM": Architecture("phi3", values="qkv_proj"),
    "Qwen2ForCausalLM": Architecture("qwen2"),
    "Qwen3ForCausalLM": Architecture("qwen3"),
}


def families() -> list[str]:
    """Names of the supported families."""
    return sorted({row.family for row in ARCHITECTURES.values()})


def architecture_of(class_name: str) -> Architecture:
    """Look up the row of a model's class.

    Args:
        class_name: the class of the Hugging Face model, `LlamaForCausalLM`.

    Raises:
        Unsupported: the class is not in the table.
    """
    if class_name not in ARCHITECTURES:
        raise Unsupported(
            f"Models of the class {class_name} are not supported; supported families are {', '.join(families())}."
        )
    return ARCHITECTURES[class_name]


@final
class Anatomy:
    """The parts of one model, found by its family's row.

    Attributes:
        hf: the Hugging Face module.
        row: its family's row.
        layers: its layers in order.
        final_norm: the norm before the unembedding.
        parallel: whether attention and MLP of a block both read the stream as it enters the block.
    """

    def __init__(self, hf: nn.Module) -> None:
        self.hf = hf
        self.row = architecture_of(type(hf).__name__)
        stack = hf.get_submodule(self.row.stack)
        self.layers = list(stack.get_submodule(self.row.layers).children())
        self.final_norm = stack.get_submodule(self.row.final_norm)
        self.parallel = bool(getattr(self.layers[0], "use_parallel_residual", False))

    def part(self, name: str, layer: int | None = None) -> nn.Module | None:
        """Find a part: layer, attention, output, mlp, down, a norm of `row.norms`, final_norm, hf, or None."""
        if layer is None:
            return {"hf": self.hf, "final_norm": self.final_norm, "layer": self.layers[0]}[name]
        block = self.layers[layer]
        if name in ("layer", "mlp", "down"):
            return block.get_submodule({"layer": "", "mlp": "mlp", "down": f"mlp.{self.row.down}"}[name])
        if name in ("attention", "output"):
            attention = block.get_submodule(self.row.attention)
            return attention if name == "attention" else attention.get_submodule(self.row.output)
        return block.get_submodule(self.row.norms[name]) if name in self.row.norms else None
