"""Hook names: four spellings of a place lead to one site, and what is no site is refused with the reason."""

import pytest

from glassworks.coders.hooks import site_of
from glassworks.errors import Unsupported


@pytest.mark.parametrize(
    ("hook", "model", "site"),
    [
        ("blocks.12.hook_resid_post", "", "resid_post.12"),
        ("blocks.0.hook_resid_pre", "", "resid_pre.0"),
        ("blocks.3.attn.hook_z", "", "attn_heads.3"),
        ("blocks.3.hook_mlp_in", "", "resid_mid.3"),
        ("blocks.3.ln2.hook_normalized", "google/gemma-2-2b", "mlp_in_pregain.3"),
        ("blocks.3.mlp.hook_in", "", "mlp_in.3"),
        ("blocks.3.mlp.hook_out", "Qwen/Qwen3-4B", "mlp_out.3"),
        ("hook_embed", "", "embed"),
        ("model.layers.5.output", "", "resid_post.5"),
        ("model.layers.5", "", "resid_post.5"),
        ("model.language_model.layers.7.output", "", "resid_post.7"),
        ("language_model.layers.7.self_attn.o_proj.input", "", "attn_heads.7"),
        ("model.layers.5.pre_feedforward_layernorm.output", "gemma-3", "mlp_in.5"),
        ("model.layers.5.post_feedforward_layernorm.output", "gemma-3", "mlp_out.5"),
        ("model.layers.5.post_attention_layernorm.output", "llama", "mlp_in.5"),
        ("model.layers.5.post_attention_layernorm.output", "google/gemma-3-1b", "attn_out.5"),
        ("transformer.h.4.mlp", "gpt2", "mlp_out.4"),
        ("gpt_neox.layers.4.attention", "", "attn_out.4"),
        ("layers.4.mlp.input", "", "mlp_in.4"),
        ("layers.4", "", "resid_post.4"),
        ("h.4", "", "resid_post.4"),
        ("resid_post.4", "", "resid_post.4"),
        ("embed_tokens", "", "embed"),
        ("12-gemmascope-2-res-16k", "", "resid_post.12"),
        ("gemma-2-2b/5-gemmascope-transcoder-16k", "", "mlp_in_pregain.5"),
        ("5-gemmascope-2-transcoder-16k", "", "mlp_in.5"),
        ("5-gemmascope-att-65k", "", "attn_heads.5"),
        ("8-res-jb", "", "resid_pre.8"),
        ("8-res_mid_32k-oai", "", "resid_mid.8"),
        ("8-att-kk", "", "attn_heads.8"),
        ("15-llamascope-mlp-32k", "", "mlp_out.15"),
    ],
)
def test_a_spelling_leads_to_its_site(hook, model, site):
    assert site_of(hook, model=model).name == site


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("hook_resid_mid", "resid_mid.2"),
        ("mlp.hook_in", "mlp_in.2"),
        ("hook_mlp_out", "mlp_out.2"),
        ("ln2.hook_normalized", "mlp_in_pregain.2"),
    ],
)
def test_circuit_tracer_gives_the_layer_apart(hook, site):
    assert site_of(hook, 2).name == site


@pytest.mark.parametrize(
    ("hook", "model"), [("model.layers.5.mlp.output", "google/gemma-3-1b-pt"), ("blocks.5.mlp.hook_out", "gemma-2-2b")]
)
def test_an_mlp_before_its_post_norm_is_no_site(hook, model):
    with pytest.raises(Unsupported, match="before the norm that follows it"):
        site_of(hook, model=model)


@pytest.mark.parametrize(("hook", "model"), [("hook_embed", "gpt2-small"), ("embed_tokens", "google/gemma-2-2b")])
def test_embeddings_without_positions_or_scale_are_no_site(hook, model):
    with pytest.raises(Unsupported, match="not yet what enters layer 0"):
        site_of(hook, model=model)


@pytest.mark.parametrize("hook", ["blocks.3.mlp.hook_post", "nonsense", "hook_mlp_out", "model.layers.2.mlp.up_proj"])
def test_an_unknown_hook_lists_the_nearest(hook):
    with pytest.raises(Unsupported, match=r"is no site that we know; (the nearest|there) are"):
        site_of(hook)
