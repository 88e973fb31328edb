"""Formats of other libraries: files laid out as they write them, against their formulas in a few lines each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

import glassworks as gw
from glassworks.coders import Coder
from glassworks.coders.entries import Entry
from glassworks.coders.files import files_of
from glassworks.coders.formats import find_entries
from glassworks.errors import BadArtefact, NotFound, Unsupported

D, F, K = 8, 40, 5


def only(folder: Path) -> Entry:
    (entry,) = find_entries(files_of(folder))
    return entry


def near(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def agrees(coder: Coder, x: Tensor, latents: Tensor, reconstruction: Tensor) -> None:
    assert near(coder.encode(x).dense(), latents)
    assert near(coder(x), reconstruction)
    assert latents.count_nonzero() > 0


def topk(z: Tensor, k: int = K) -> Tensor:
    kept = z.relu().topk(k, dim=-1)
    return torch.zeros_like(z).scatter(-1, kept.indices, kept.values)


def linear(*names: str) -> dict[str, Tensor]:
    """Encoder, its bias, decoder, its bias, all with latents first but the decoder: `nn.Linear`'s layout."""
    shapes = [(F, D), (F,), (D, F), (D,)]
    return {name: torch.randn(shape) for name, shape in zip(names, shapes, strict=True)}


def plain() -> dict[str, Tensor]:
    return {"W_enc": torch.randn(D, F), "W_dec": torch.randn(F, D), "b_enc": torch.randn(F), "b_dec": torch.randn(D)}


def write(folder: Path, config: Mapping[str, Any], tensors: dict[str, Tensor], names: tuple[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(json.dumps(config))
    save_file(tensors, folder / names[1])
    return folder


# SAELens

SAELENS = ("cfg.json", "sae_weights.safetensors")
VERSION_6 = {
    "architecture": "standard",
    "d_in": D,
    "d_sae": F,
    "apply_b_dec_to_input": False,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {"hook_name": "blocks.4.hook_resid_post", "model_name": "gpt2", "sae_lens_version": "6.1.0"},
}


def jump(z: Tensor, threshold: Tensor) -> Tensor:
    return z.relu() * (z > threshold)


def test_saelens_6_jumprelu(tmp_path):
    t = plain() | {"threshold": torch.rand(F)}
    entry = only(write(tmp_path / "a", VERSION_6 | {"architecture": "jumprelu"}, t, SAELENS))
    assert (entry.id, entry.kind, entry.provenance.model) == ("resid_post.4", "sae", "gpt2")
    x = torch.randn(7, D)
    a = jump(x @ t["W_enc"] + t["b_enc"], t["threshold"])
    agrees(entry.build(), x, a, a @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("rescaled", [False, True])
def test_saelens_6_topk(tmp_path, rescaled):
    t = plain()
    config = VERSION_6 | {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": rescaled}
    entry, x = only(write(tmp_path, config, t, SAELENS)), torch.randn(7, D)
    n = t["W_dec"].norm(dim=1) if rescaled else torch.ones(F)
    a = topk((x @ t["W_enc"] + t["b_enc"]) * n)
    assert (entry.l0, entry.target) == ("5", 5.0)
    agrees(entry.build(), x, a, (a / n) @ t["W_dec"] + t["b_dec"])


def test_saelens_6_gated(tmp_path):
    t = plain() | {name: torch.randn(F) for name in ("b_gate", "r_mag", "b_mag")}
    del t["b_enc"]
    config = VERSION_6 | {"architecture": "gated", "apply_b_dec_to_input": True}
    x = torch.randn(50, D)
    z = (x - t["b_dec"]) @ t["W_enc"]
    a = (z + t["b_gate"] > 0) * (z * t["r_mag"].exp() + t["b_mag"]).relu()
    agrees(only(write(tmp_path, config, t, SAELENS)).build(), x, a, a @ t["W_dec"] + t["b_dec"])


def test_saelens_6_skip_transcoder(tmp_path):
    t = plain() | {"W_skip": torch.randn(D, D), "threshold": torch.rand(F)}
    hooks = {"hook_name": "blocks.4.ln2.hook_normalized", "hook_name_out": "blocks.4.hook_mlp_out"}
    config = VERSION_6 | {"architecture": "jumprelu_skip_transcoder", "metadata": VERSION_6["metadata"] | hooks}
    entry, x = only(write(tmp_path, config, t, SAELENS)), torch.randn(7, D)
    assert [str(each) for each in (*entry.reads, *entry.writes)] == ["mlp_in_pregain.4", "mlp_out.4"]
    a = jump(x @ t["W_enc"] + t["b_enc"], t["threshold"])
    agrees(entry.build(), x, a, a @ t["W_dec"] + t["b_dec"] + x @ t["W_skip"].T)


@pytest.mark.parametrize(
    "config",
    [
        {"hook_point": "blocks.4.hook_resid_pre", "d_in": D, "d_sae": F, "activation_fn_str": "relu"},
        {
            "hook_name": "blocks.4.hook_resid_pre",
            "d_sae": F,
            "normalize_activations": False,
            "sae_lens_version": "3.9.0",
        },
        {"hook_name": "blocks.4.hook_resid_pre", "normalize_activations": True, "architecture": "standard"},
    ],
)
def test_saelens_before_6_centres_unless_told(tmp_path, config):
    t = plain()
    entry, x = only(write(tmp_path, config, t, SAELENS)), torch.randn(7, D)
    assert entry.id == "resid_pre.4"
    a = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    agrees(entry.build(), x, a, a @ t["W_dec"] + t["b_dec"])
    assert bool(entry.provenance.notes) == (config.get("normalize_activations") is True)


def test_saelens_5_topk(tmp_path):
    t = plain()
    config = {"hook_name": "blocks.4.attn.hook_z", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    entry, x = only(write(tmp_path, config, t, SAELENS)), torch.randn(7, D)
    assert entry.id == "attn_heads.4"
    a = topk((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
    agrees(entry.build(), x, a, a @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("scaling", ["layer_norm", "constant_norm_rescale"])
def test_saelens_scales_every_token_by_itself(tmp_path, scaling):
    t, x = plain(), torch.randn(7, D) * 30 + 5
    config = VERSION_6 | {"apply_b_dec_to_input": True, "normalize_activations": scaling}
    if scaling == "layer_norm":
        centre, size = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        scaled = (x - centre) / (size + 1e-5)
    else:
        centre, size = torch.zeros(7, 1), x.norm(dim=-1, keepdim=True) / D**0.5
        scaled = x / size
    a = ((scaled - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    y = (a @ t["W_dec"] + t["b_dec"]) * size + centre
    agrees(only(write(tmp_path, config, t, SAELENS)).build(), x, a, y)


def test_saelens_scaling_factors_of_finetuning(tmp_path):
    t, x = plain() | {"scaling_factor": torch.rand(F)}, torch.randn(7, D)
    config = {"hook_name": "blocks.4.hook_resid_pre", "apply_b_dec_to_input": False}
    a = (x @ t["W_enc"] + t["b_enc"]).relu()
    entry = only(write(tmp_path / "a", config | {"finetuning_scaling_factor": True}, t, SAELENS))
    agrees(entry.build(), x, a, (a * t["scaling_factor"]) @ t["W_dec"] + t["b_dec"])
    with pytest.raises(BadArtefact, match="scaling_factor that its cfg"):
        only(write(tmp_path / "b", config, t, SAELENS)).build()
    ones = only(write(tmp_path / "c", config, t | {"scaling_factor": torch.ones(F)}, SAELENS))
    agrees(ones.build(), x, a, a @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
        ({"architecture": "matching_pursuit"}, "architecture 'matching_pursuit'"),
        ({"activation_fn": "tanh-relu"}, "tanh-relu"),
        ({"metadata": VERSION_6["metadata"] | {"hook_head_index": 3}}, "one head"),
    ],
)
def test_saelens_says_what_it_cannot_read(tmp_path, change, reason):
    with pytest.raises(Unsupported, match=reason):
        only(write(tmp_path, VERSION_6 | change, plain(), SAELENS)).build()


# dictionary_learning

HEAD = ("encoder.weight", "encoder.bias", "decoder.weight")


def learned(folder: Path, name: str, tensors: dict[str, Any], **trainer: Any) -> Entry:
    folder.mkdir(parents=True)
    torch.save(tensors, folder / "ae.pt")
    fields = {"dict_class": name, "activation_dim": D, "dict_size": F, "layer": 3, "lm_name": "Qwen/Qwen2.5-7B"}
    (folder / "config.json").write_text(json.dumps({"trainer": fields | trainer, "buffer": {"ctx_len": 128}}))
    return only(folder)


def test_dictionary_learning_autoencoders(tmp_path):
    x = torch.randn(7, D)
    t = linear(*HEAD, "bias")
    a = ((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    entry = learned(tmp_path / "a", "AutoEncoder", t, submodule_name="resid_post_layer_19")
    assert (entry.id, entry.provenance.model) == ("resid_post.19", "Qwen/Qwen2.5-7B")
    agrees(entry.build(), x, a, a @ t["decoder.weight"].T + t["bias"])
    t = linear(*HEAD, "decoder.bias")
    a = (x @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    entry = learned(tmp_path / "b", "AutoEncoderNew", t, submodule_name="model.layers.7.mlp")
    assert entry.id == "mlp_out.7"
    agrees(entry.build(), x, a, a @ t["decoder.weight"].T + t["decoder.bias"])


def test_dictionary_learning_gated(tmp_path):
    t = {"encoder.weight": torch.randn(F, D), "decoder.weight": torch.randn(D, F), "decoder_bias": torch.randn(D)}
    t |= {name: torch.randn(F) for name in ("gate_bias", "mag_bias", "r_mag")}
    x = torch.randn(50, D)
    z = (x - t["decoder_bias"]) @ t["encoder.weight"].T
    a = (z + t["gate_bias"] > 0) * (t["r_mag"].exp() * z + t["mag_bias"]).relu()
    agrees(learned(tmp_path / "g", "GatedAutoEncoder", t).build(), x, a, a @ t["decoder.weight"].T + t["decoder_bias"])


@pytest.mark.parametrize("threshold", [0.7, -1.0])
def test_dictionary_learning_topk_and_batch_topk(tmp_path, threshold):
    t: dict[str, Any] = linear(*HEAD, "b_dec")
    t |= {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(threshold)}
    x = torch.randn(7, D)
    z = (x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]
    for name, a in (("AutoEncoderTopK", topk(z)), ("BatchTopKSAE", z.relu() * (z.relu() > threshold))):
        entry = learned(tmp_path / "resid_post_layer_11" / name, name, t, k=K)
        assert (entry.id, entry.l0) == ("resid_post.11", "5")
        agrees(entry.build(), x, a, a @ t["decoder.weight"].T + t["b_dec"])


def test_dictionary_learning_matryoshka(tmp_path):
    t: dict[str, Any] = plain() | {"k": torch.tensor(K), "threshold": torch.tensor(0.5)}
    t |= {"group_sizes": torch.tensor([10, 12, 18])}
    x = torch.randn(7, D)
    a = (((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu() > 0.5) * ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
    coder = learned(tmp_path / "m", "MatryoshkaBatchTopKSAE", t, k=K).build()
    agrees(coder, x, a, a @ t["W_dec"] + t["b_dec"])
    assert tuple(coder.prefixes) == (10, 22, 40)  # pyright: ignore[reportAttributeAccessIssue]


def test_dictionary_learning_jumprelu(tmp_path):
    t = plain() | {"threshold": torch.randn(F)}
    x = torch.randn(7, D)
    a = jump(x @ t["W_enc"] + t["b_enc"], t["threshold"])
    agrees(learned(tmp_path / "j", "JumpReluAutoEncoder", t).build(), x, a, a @ t["W_dec"] + t["b_dec"])


def test_an_unknown_class_of_dictionary_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="class 'IdentityDict' is not supported"):
        learned(tmp_path / "x", "IdentityDict", plain()).build()


class Trap:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    entry = learned(tmp_path / "x", "AutoEncoder", {"trap": Trap()})
    with pytest.raises(BadArtefact, match="could run code"):
        entry.build()
    (tmp_path / "x" / "ae.pt").write_bytes(b"no pickle")
    with pytest.raises(BadArtefact, match="pickle is damaged"):
        only(tmp_path / "x").build()
    assert "code ran" not in capsys.readouterr().out


# sparsify

SPARSIFY = ("cfg.json", "sae.safetensors")


def sparse(bias: str = "b_dec") -> dict[str, Tensor]:
    t = linear("encoder.weight", "encoder.bias", "W_dec", bias)
    return t | {"W_dec": t["W_dec"].T.contiguous()}


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_sparsify_autoencoder(tmp_path, activation):
    t = sparse()
    config = {"activation": activation, "expansion_factor": 5, "num_latents": 0, "k": K, "d_in": D, "transcode": False}
    entry, x = only(write(tmp_path / "layers.5.mlp", config, t, SPARSIFY)), torch.randn(7, D)
    assert (entry.id, entry.kind, entry.width) == ("mlp_out.5", "sae", "40")
    z = ((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    groups = z.reshape(7, K, F // K)
    a = topk(z) if activation == "topk" else (groups * (groups == groups.amax(-1, keepdim=True))).flatten(1)
    agrees(entry.build(), x, a, a @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("names_it", [True, False])
def test_sparsify_skip_transcoder(tmp_path, names_it):
    t = sparse() | {"W_skip": torch.randn(D, D)}
    config = {"num_latents": F, "k": K, "d_in": D, "skip_connection": True} | ({"transcode": True} if names_it else {})
    write(tmp_path / "layers.3.mlp", config, t, SPARSIFY)
    entry, x = only(tmp_path), torch.randn(7, D)
    assert [str(each) for each in (*entry.reads, *entry.writes)] == ["mlp_in.3", "mlp_out.3"]
    centred = x if names_it else x - t["b_dec"]
    a = topk(centred @ t["encoder.weight"].T + t["encoder.bias"])
    agrees(entry.build(), x, a, a @ t["W_dec"] + t["b_dec"] + x @ t["W_skip"].T)


def test_sparsify_refuses_signed_latents(tmp_path):
    config = {"k": K, "d_in": D, "signed": True, "num_latents": F}
    with pytest.raises(Unsupported, match="signed latents"):
        only(write(tmp_path / "layers.3", config, sparse(), SPARSIFY)).build()


# circuit-tracer


def rows(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    t = {"W_enc": torch.randn(F, D), "W_dec": torch.randn(F, D), "b_enc": torch.randn(F), "b_dec": torch.randn(D)}
    return {name: value.to(dtype) for name, value in t.items()}


def tracer(folder: Path, layers: list[dict[str, Tensor]], **config: Any) -> list[Entry]:
    folder.mkdir(exist_ok=True)
    fields = {"model_name": "Qwen/Qwen3-4B", "model_kind": "transcoder_set"}
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    (folder / "config.yaml").write_text(yaml.safe_dump(fields | hooks | config))
    for i, t in enumerate(layers):
        save_file(t, folder / f"layer_{i}.safetensors")
    return find_entries(files_of(folder))


def test_circuit_tracer_sets(tmp_path):
    x = torch.randn(7, D)
    layers = [
        rows(torch.bfloat16),
        rows() | {"activation_function.threshold": torch.rand(F)},
        rows() | {"W_skip": torch.randn(D, D)},
    ]
    entries = tracer(tmp_path, layers)
    assert [f"{each.reads[0]} {each.writes[0]}" for each in entries] == [f"mlp_in.{i} mlp_out.{i}" for i in range(3)]
    for entry, stored in zip(entries, layers, strict=True):
        t = {name: value.float() for name, value in stored.items()}
        z = x @ t["W_enc"].T + t["b_enc"]
        a = z * (z > t["activation_function.threshold"]) if "activation_function.threshold" in t else z.relu()
        y = a @ t["W_dec"] + t["b_dec"]
        agrees(entry.build(), x, a, y + x @ t["W_skip"].T if "W_skip" in t else y)


def test_circuit_tracer_topk_and_negative_thresholds(tmp_path):
    x, t = torch.randn(7, D), rows()
    (entry,) = tracer(tmp_path / "topk", [t], activation="topk", k=K)
    a = topk(x @ t["W_enc"].T + t["b_enc"])
    agrees(entry.build(), x, a, a @ t["W_dec"] + t["b_dec"])
    (entry,) = tracer(tmp_path / "negative", [rows() | {"activation_function.threshold": -torch.rand(F)}])
    with pytest.raises(BadArtefact, match="threshold is negative"):
        entry.build()


@pytest.mark.parametrize("thresholds", [False, True])
def test_circuit_tracer_cross_layer_transcoders_count_outputs_from_their_own(tmp_path, thresholds):
    n, x, parts = 3, torch.randn(5, 3, D), []
    for i in range(n):
        t = {"W_enc": torch.randn(F, D), "b_enc": torch.randn(F), "b_dec": torch.randn(D), "threshold": torch.rand(F)}
        names = ["W_enc", "b_enc", "b_dec", *(["threshold"] if thresholds else [])]
        save_file({f"{name}_{i}": t[name] for name in names}, tmp_path / f"W_enc_{i}.safetensors")
        t["W_dec"] = torch.randn(F, n - i, D)
        save_file({f"W_dec_{i}": t["W_dec"]}, tmp_path / f"W_dec_{i}.safetensors")
        parts.append(t)
    entry = only(tmp_path)
    assert [str(each) for each in (entry.reads[2], entry.writes[2])] == ["resid_mid.2", "mlp_out.2"]
    a = [
        jump(x[:, i] @ t["W_enc"].T + t["b_enc"], t["threshold"] if thresholds else torch.zeros(F))
        for i, t in enumerate(parts)
    ]
    y = [parts[o]["b_dec"] + sum(a[i] @ parts[i]["W_dec"][:, o - i] for i in range(o + 1)) for o in range(n)]
    agrees(entry.build(), x, torch.cat(a, -1), torch.stack(y, 1))
    (tmp_path / "W_dec_1.safetensors").unlink()
    with pytest.raises(BadArtefact, match="lacks W_dec_1"):
        find_entries(files_of(tmp_path))


# Llama Scope, llamascopium


@pytest.mark.parametrize("gated_by_length", [False, True])
def test_llama_scope_1(tmp_path, gated_by_length):
    t = {key: value.bfloat16() for key, value in linear(*HEAD, "decoder.bias").items()}
    folder = tmp_path / "Llama3_1-8B-Base-L15R-8x"
    config = {"d_model": D, "d_sae": F, "jump_relu_threshold": 1.3, "hook_point_in": "blocks.15.hook_resid_post"}
    config |= {"hook_point_out": "blocks.15.hook_resid_post", "norm_activation": "dataset-wise"}
    config |= {"dataset_average_activation_norm": {"in": 9.0, "out": 9.0}}
    config |= {"sparsity_include_decoder_norm": gated_by_length}
    (folder / "checkpoints").mkdir(parents=True)
    write(folder, config, t, ("hyperparams.json", "checkpoints/final.safetensors"))
    entry, x = only(tmp_path), torch.randn(50, D)
    assert (entry.id, entry.name) == ("resid_post.15", "Llama3_1-8B-Base-L15R-8x")
    t, s = {key: value.float() for key, value in t.items()}, D**0.5 / 9
    n = t["decoder.weight"].norm(dim=0) if gated_by_length else torch.ones(F)
    z = (x @ t["encoder.weight"].T + t["encoder.bias"] / s) * n
    a = z * (z > 1.3)
    agrees(entry.build(), x, a, (a / n) @ t["decoder.weight"].T + t["decoder.bias"] / s)


SCOPIUM = ("config.json", "sae_weights.safetensors")
HOOKS = {"hook_point_in": "blocks.3.ln2.hook_normalized", "hook_point_out": "blocks.3.hook_mlp_out"}
NORMS = {"dataset_average_activation_norm.blocks.3.ln2.hook_normalized": torch.tensor(4.0)}
NORMS |= {"dataset_average_activation_norm.blocks.3.hook_mlp_out": torch.tensor(0.5)}


@pytest.mark.parametrize("kind", ["jumprelu", "topk", "relu"])
@pytest.mark.parametrize("by_length", [False, True])
def test_llamascopium_transcoder_is_the_trained_function(tmp_path, kind, by_length):
    t = {"W_E": torch.randn(D, F), "b_E": torch.randn(F), "W_D": torch.randn(F, D), "b_D": torch.randn(D)}
    threshold = {"activation_function.log_jumprelu_threshold": torch.randn(F)} if kind == "jumprelu" else {}
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": F / D, "act_fn": kind, "top_k": K, **HOOKS}
    config |= {"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": by_length}
    entry, x = only(write(tmp_path, config, t | NORMS | threshold, SCOPIUM)), torch.randn(20, D)
    assert [str(each) for each in (*entry.reads, *entry.writes)] == ["mlp_in_pregain.3", "mlp_out.3"]
    s_in, s_out = D**0.5 / 4.0, D**0.5 / 0.5
    n = t["W_D"].norm(dim=1) if by_length else torch.ones(F)
    z = (s_in * x @ t["W_E"] + t["b_E"]) * n
    gate = {"topk": topk, "relu": torch.relu}.get(kind) or (lambda z: jump(z, next(iter(threshold.values())).exp()))
    reconstruction = ((gate(z) / n) @ t["W_D"] + t["b_D"]) / s_out
    coder = entry.build()
    assert near(coder(x), reconstruction)
    assert torch.equal(coder.encode(x).dense() > 0, gate(z) > 0)


def test_the_r1_distill_edition_has_the_names_of_linear_layers(tmp_path):
    t = linear(*HEAD, "decoder.bias") | {"log_jumprelu_threshold": torch.randn(F)}
    hook = "blocks.9.hook_resid_post"
    norm = {f"dataset_average_activation_norm.{hook}": torch.tensor(6.0)}
    config = {"d_model": D, "expansion_factor": F / D, "hook_point_in": hook, "hook_point_out": hook}
    config |= {"act_fn": "jumprelu", "sparsity_include_decoder_norm": False}
    entry, x = only(write(tmp_path / "L9R", config, t | norm, SCOPIUM)), torch.randn(20, D)
    s = D**0.5 / 6.0
    a = jump(s * x @ t["encoder.weight"].T + t["encoder.bias"], t["log_jumprelu_threshold"].exp())
    agrees(entry.build(), x, a / s, (a @ t["decoder.weight"].T + t["decoder.bias"]) / s)
    write(tmp_path / "L9R", config, t, SCOPIUM)
    with pytest.raises(BadArtefact, match="its scale is unknown"):
        only(tmp_path).build()


@pytest.mark.parametrize("by_length", [False, True])
def test_llamascopium_cross_layer_transcoders_group_by_output(tmp_path, by_length):
    n, x = 3, torch.randn(6, 3, D)
    ins, outs = [f"blocks.{i}.hook_resid_mid" for i in range(n)], [f"blocks.{i}.hook_mlp_out" for i in range(n)]
    t = {"W_E": torch.randn(n, D, F), "b_E": torch.randn(n, F), "threshold": torch.randn(n, F)}
    t |= {f"W_D.{o}": torch.randn(o + 1, F, D) for o in range(n)} | {f"b_D.{o}": torch.randn(D) for o in range(n)}
    norms = {f"dataset_average_activation_norm.{hook}": torch.tensor(2.0 + i) for i, hook in enumerate([*ins, *outs])}
    config = {"sae_type": "clt", "d_model": D, "expansion_factor": F / D, "act_fn": "jumprelu"}
    config |= {"hook_points_in": ins, "hook_points_out": outs, "sparsity_include_decoder_norm": by_length}
    stored = {("activation_function.log_jumprelu_" if key == "threshold" else "") + key: v for key, v in t.items()}
    entry = only(write(tmp_path, config, stored | norms, SCOPIUM))
    assert (entry.kind, entry.width) == ("clt", "120")
    s = [D**0.5 / float(norms[f"dataset_average_activation_norm.{hook}"]) for hook in [*ins, *outs]]
    a = []
    for i in range(n):
        length = torch.stack([t[f"W_D.{o}"][i] for o in range(i, n)]).square().sum((0, 2)).sqrt()
        length = length if by_length else torch.ones(F)
        z = (s[i] * x[:, i] @ t["W_E"][i] + t["b_E"][i]) * length
        a.append(jump(z, t["threshold"][i].exp()) / length)
    y = [(t[f"b_D.{o}"] + sum(a[i] @ t[f"W_D.{o}"][i] for i in range(o + 1))) / s[n + o] for o in range(n)]
    agrees(entry.build(), x, torch.cat([each / s[i] for i, each in enumerate(a)], -1), torch.stack(y, 1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sae_type": "molt"}, "'molt' is not supported"),
        ({"norm_activation": "token-wise"}, "token-wise"),
        ({"act_fn": "batchtopk"}, "depends on the batch"),
        ({"use_glu_encoder": True}, "gated linear encoder"),
    ],
)
def test_llamascopium_says_what_it_cannot_read(tmp_path, change, reason):
    t = {"W_E": torch.randn(D, F), "b_E": torch.randn(F), "W_D": torch.randn(F, D), "b_D": torch.randn(D)}
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": F / D, "act_fn": "relu", **HOOKS} | change
    write(tmp_path, config, t | NORMS, SCOPIUM)
    with pytest.raises(Unsupported, match=reason):
        only(tmp_path).build()


# single pickles


@pytest.mark.parametrize(
    ("file", "names", "model"),
    [
        (
            "Llama-3.1-8B-Instruct-SAE-l19.pth",
            ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias"),
            "meta-llama/Llama-3.1-8B-Instruct",
        ),
        (
            "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
            (*HEAD, "decoder.bias"),
            "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        ),
    ],
)
def test_two_linear_layers_in_a_pickle(tmp_path, file, names, model):
    t, x = linear(*names), torch.randn(7, D)
    torch.save(t, tmp_path / file)
    entry = only(tmp_path)
    assert (entry.id, entry.provenance.model) == ("resid_post.19", model)
    a = (x @ t[names[0]].T + t[names[1]]).relu()
    agrees(entry.build(), x, a, a @ t[names[2]].T + t[names[3]])


@pytest.mark.parametrize("named", [True, False])
def test_qwen_scope(tmp_path, named):
    t = linear("W_enc", "b_enc", "W_dec", "b_dec")
    folder = tmp_path / ("SAE-Res-Qwen3-1.7B-Base-W32K-L0_5" if named else "mine")
    folder.mkdir()
    torch.save(t, folder / "layer7.sae.pt")
    if not named:
        config = {"model_type": "topk_sae", "base_model": "Qwen/Qwen3-8B-Base", "k": K, "d_sae": F}
        (folder / "config.json").write_text(json.dumps(config))
    entry, x = only(folder), torch.randn(7, D)
    assert (entry.id, entry.l0, entry.width) == ("resid_post.7", "5", "32k" if named else "40")
    a = topk(x @ t["W_enc"].T + t["b_enc"])
    agrees(entry.build(), x, a, a @ t["W_dec"].T + t["b_dec"])


# what lies in the shared data


@pytest.mark.parametrize("width", [128, 512, 1024])
def test_real_topk_autoencoders(data, width):
    entries = {entry.name: entry for entry in find_entries(files_of(data / "releases" / "sae-tinystories1m"))}
    entry, x = entries[f"sae_{width}_layer4"], torch.randn(30, 64) * 3
    assert (entry.id, entry.l0) == ("resid_post.5", "4")
    t = load_file(data / "releases" / "sae-tinystories1m" / f"sae_{width}_layer4.safetensors")
    a = topk((x - t["pre_bias"]) @ t["encoder_weights"] + t["encoder_bias"], 4)
    agrees(entry.build(), x, a, a @ t["decoder_weights"] + t["pre_bias"])


def test_real_cross_layer_transcoders(data):
    folder = data / "releases" / "clt-toys"
    for entry in find_entries(files_of(folder)):
        t = load_file(folder / entry.files[0])
        # the toys' encoders reach 1e8: any input of their model's scale is far from rounding
        x = torch.randn(20, 2, 110)
        z = torch.einsum("bld,ldf->blf", x, t["encoder.W"]) + t["encoder.b"]
        a = jump(z, t["nonlinearity.theta"]) if "nonlinearity.theta" in t else topk(z.flatten(1), 1).reshape(z.shape)
        if "decoder.W" in t:
            y = torch.einsum("blf,lfd->bld", a, t["decoder.W"])
        else:
            y = torch.stack([a[:, 0] @ t["decoder.W_0"][0], torch.einsum("blf,lfd->bd", a, t["decoder.W_1"])], 1)
        y, coder = y + t["decoder.b"], entry.build()
        if entry.kind == "transcoder":
            layer = entry.reads[0].layer
            x, a, y = x[:, layer], a[:, layer], y[:, layer]
        agrees(coder, x, a.reshape(20, -1), y)


def releases(root: Path) -> list[Path]:
    """One file of weights in each of several formats."""
    write(root / "saelens", VERSION_6, plain(), SAELENS)
    write(root / "layers.3", {"k": K, "d_in": D, "num_latents": F}, sparse(), SPARSIFY)
    t = {"W_E": torch.randn(D, F), "b_E": torch.randn(F), "W_D": torch.randn(F, D), "b_D": torch.randn(D)}
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": F / D, "act_fn": "relu", **HOOKS}
    write(root / "scopium", config, t | NORMS, SCOPIUM)
    tracer(root / "tracer", [rows()])
    learned(root / "learned", "AutoEncoder", linear(*HEAD, "bias"))
    (root / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5").mkdir()
    torch.save(linear("W_enc", "b_enc", "W_dec", "b_dec"), root / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5/layer7.sae.pt")
    found = [each for each in root.rglob("*") if each.suffix in (".safetensors", ".pt")]
    assert len(found) == 6
    return found


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "another", "NaN"])
def test_every_format_refuses_a_damaged_file_and_keeps_nothing(tmp_path, damage):
    for file in releases(tmp_path):
        whole = file.read_bytes()
        if damage in ("another", "NaN"):
            save = torch.save if file.suffix == ".pt" else save_file
            load = torch.load if file.suffix == ".pt" else load_file
            tensors = {key: v[:-1] if damage == "another" and v.ndim else v for key, v in load(file).items()}
            tensors = {key: v / 0 * 0 if damage == "NaN" and v.ndim == 2 else v for key, v in tensors.items()}
            save(tensors, file)
        else:
            file.write_bytes({"cut": whole[: len(whole) // 2], "noise": b"\x07" * 999, "empty": b""}[damage])
        scope = gw.load_scope(file.parent)
        for _ in range(2):
            with pytest.raises(BadArtefact) as told:
                _ = scope[scope.entries[0].name]
            assert len(str(told.value).splitlines()) == 1
            assert scope.entries[0].name in str(told.value) or str(file) in str(told.value)


def test_what_is_no_release_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(Unsupported, match=r"holds no coders of a format that we know.*Its files are notes\.txt"):
        find_entries(files_of(tmp_path))
    with pytest.raises(NotFound, match="neither a folder"):
        files_of("smallwrld")


def test_a_coder_that_cannot_be_read_is_left_out_where_others_can(tmp_path):
    config = {"k": K, "d_in": D, "num_latents": F}
    write(tmp_path / "layers.3", config, sparse(), SPARSIFY)
    write(tmp_path / "layers.3.mlp.up_proj", config, sparse(), SPARSIFY)
    with pytest.warns(UserWarning, match=r"1 of 2 coders are left out; the first: The hook 'layers\.3\.mlp\.up_proj'"):
        assert [entry.name for entry in find_entries(files_of(tmp_path))] == ["layers.3"]


def test_a_configuration_that_lacks_something_is_told(tmp_path):
    with pytest.raises(
        BadArtefact, match=r"configuration cfg\.json of .* lacks the field 'd_in'; it must be a whole number"
    ):
        only(write(tmp_path / "layers.3", {"k": K}, sparse(), SPARSIFY))
    (tmp_path / "layers.3" / "cfg.json").write_text("{")
    with pytest.raises(BadArtefact, match="is not readable JSON"):
        only(tmp_path)
