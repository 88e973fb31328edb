"""Random tiny models of every family, with random coders: the laws of attribution hold whatever the weights are."""

from collections.abc import Callable

import torch
import transformers

from glassworks.coders import Coder, Crosscoder, CrossLayer, JumpReLU, Scope, Transcoder
from glassworks.models import Model
from glassworks.sites import Site

LAYERS, WIDTH, VOCABULARY, LATENTS = 3, 32, 64, 128
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 12}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
CONFIGS: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "gemma3": lambda: transformers.Gemma3TextConfig(**COMMON, **GROUPED, query_pre_attn_scalar=12, sliding_window=4),
    "gemma2": lambda: transformers.Gemma2Config(
        **COMMON, **GROUPED, query_pre_attn_scalar=12, sliding_window=4, final_logit_softcapping=20.0
    ),
    "llama": lambda: transformers.LlamaConfig(**COMMON, **GROUPED, attention_bias=True, mlp_bias=True),
    "gpt2": lambda: transformers.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**COMMON, use_parallel_residual=True),
    "gpt_neox_sequential": lambda: transformers.GPTNeoXConfig(**COMMON, use_parallel_residual=False),
    "olmo2": lambda: transformers.Olmo2Config(**COMMON, num_key_value_heads=2),
    "qwen2": lambda: transformers.Qwen2Config(**COMMON, num_key_value_heads=2),
    "qwen3": lambda: transformers.Qwen3Config(**COMMON, **GROUPED),
}
PROMPT = [0, 15, 18, 33, 18, 62, 25, 46, 7]


def random_model(family: str, seed: int = 0) -> Model:
    """A tiny model with every weight, gain and bias random."""
    torch.manual_seed(seed)
    hf = transformers.AutoModelForCausalLM.from_config(CONFIGS[family]()).eval()
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if weight.ndim == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
            else:
                neutral = 1.0 if "gemma" not in family and ("norm" in name or "ln_" in name) else 0.0
                weight.copy_((neutral if name.endswith("weight") else 0.0) + 0.2 * torch.randn_like(weight))
    return Model(hf, name=family)


def random_coder(model: Model, layer: int, kind: str = "mlp_in", skip: bool = False, l0: int = 6) -> Transcoder:
    """A transcoder with random thresholds, of which about `l0` latents are active a token."""
    read, d = Site(kind, layer), model.d_model
    unit = torch.nn.functional.normalize
    weights = {
        "w_enc": unit(torch.randn(LATENTS, d), dim=1),
        "b_enc": 0.1 * torch.randn(LATENTS),
        "w_dec": 0.2 * unit(torch.randn(LATENTS, d), dim=1),
        "b_dec": 0.1 * torch.randn(d),
    }
    if skip:
        weights["w_skip"] = 0.3 * torch.randn(d, d) / d**0.5
    x = model.capture(PROMPT, [read])[read.name]
    values = x @ weights["w_enc"].T + weights["b_enc"]
    level = values.flatten().topk(l0 * len(PROMPT)).values.min()
    threshold = (level * (0.8 + 0.4 * torch.rand(LATENTS))).clamp(min=0)
    return Transcoder(read, Site("mlp_out", layer), JumpReLU(threshold), weights)


def random_scope(model: Model, **options: object) -> Scope:
    """One random transcoder a layer."""
    torch.manual_seed(1)
    return scope_of([random_coder(model, layer, **options) for layer in range(model.n_layers)])


def scope_of(coders: list[Coder]) -> Scope:
    named = {coder.id: coder for coder in coders}
    labels = {name: [f"{name} feature {index}" for index in range(coder.d_latent)] for name, coder in named.items()}
    return Scope("random", "random", named, list(named), labels, untrained=("bos",))


def random_clt(model: Model, skip: bool = False) -> Scope:
    """A cross-layer transcoder that reads resid_mid (mlp_in where there is none)."""
    torch.manual_seed(2)
    kind = "mlp_in" if model.parallel else "resid_mid"
    parts = []
    for layer in range(model.n_layers):
        own = random_coder(model, layer, kind, skip)
        here, weights = own.writes[0], own.weights()
        weights |= {f"{name}.{here}": weights.pop(name) for name in ("w_dec", "b_dec", "w_skip")[: 2 + skip]}
        for upper in range(layer + 1, model.n_layers):
            weights[f"w_dec.mlp_out.{upper}"] = weights[f"w_dec.{here}"] * torch.randn(1).abs()
        writes = [Site("mlp_out", upper) for upper in range(layer, model.n_layers)]
        parts.append(Crosscoder(own.reads, writes, own.activation, weights))
    return clt_scope(parts)


def clt_scope(parts: list[Crosscoder]) -> Scope:
    clt = CrossLayer(parts).requires_grad_(False)
    labels = {part.id: [f"{part.id} feature {index}" for index in range(part.d_latent)] for part in clt.parts}
    return Scope("random", "random", {"clt": clt}, ["clt"], labels, untrained=("bos",))


def parts_of(scope: Scope) -> list[Coder]:
    """The coders that read one site each."""
    return [part for coder in scope.coders.values() for part in coder.parts]
