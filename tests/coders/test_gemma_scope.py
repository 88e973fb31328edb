"""Gemma Scope 1 and 2: the names, and files laid out as published against the published formulas."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from glassworks.coders import Coder, load_scope
from glassworks.coders.entries import Entry
from glassworks.coders.files import Files, files_of
from glassworks.coders.formats import find_entries, gemma_scope
from glassworks.errors import BadArtefact
from tests.coders import gemma_scope_names

D, F, OUT = 8, 40, 6


def only(folder: Path) -> Entry:
    (entry,) = find_entries(files_of(folder))
    return entry


def near(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def params(d_in: int = D, d_out: int = D, affine: bool = False, latents: int = F) -> dict[str, Tensor]:
    tensors = {
        "w_enc": torch.randn(d_in, latents),
        "w_dec": torch.randn(latents, d_out),
        "b_enc": torch.randn(latents),
        "b_dec": torch.randn(d_out),
        "threshold": torch.rand(latents),
    }
    return tensors | ({"affine_skip_connection": torch.randn(d_in, d_out)} if affine else {})


def formula(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    z = x @ t["w_enc"] + t["b_enc"]
    a = z.relu() * (z > t["threshold"])
    y = a @ t["w_dec"] + t["b_dec"]
    return a, y + x @ t["affine_skip_connection"] if "affine_skip_connection" in t else y


def agrees(coder: Coder, tensors: dict[str, Tensor], width: int = D) -> None:
    x = torch.randn(7, width)
    latents, reconstruction = formula(tensors, x)
    assert near(coder.encode(x).dense(), latents)
    assert near(coder(x), reconstruction)


@pytest.fixture
def publish(tmp_path) -> Callable[..., Path]:
    def run(name: str, tensors: dict[str, Tensor], config: str | None = None) -> Path:
        folder = tmp_path / "gemma-scope-2-270m-pt"
        file = folder / name / "params.safetensors"
        file.parent.mkdir(parents=True)
        save_file(tensors, file)
        (file.parent / "examples.safetensors").write_bytes(b"never read")
        if config is not None:
            (file.parent / "config.json").write_text(config)
        return folder

    return run


def test_the_grammar_gives_the_8784_listed_names():
    found = gemma_scope_names.repositories()
    assert sum(map(len, found.values())) == 8784
    assert all(len(set(names)) == len(names) for names in found.values())
    assert "resid_post/layer_12_width_262k_l0_medium_seed_1" in found["google/gemma-scope-2-270m-pt"]
    assert "mlp_out/layer_13_width_1m_l0_big" in found["google/gemma-scope-2-1b-it"]
    assert "transcoder_all/layer_45_width_262k_l0_small_affine" in found["google/gemma-scope-2-27b-pt"]
    assert "transcoder_all/layer_4_width_16k_l0_big" not in found["google/gemma-scope-2-27b-it"]
    assert "attn_out/layer_16_width_16k_l0_big" not in found["google/gemma-scope-2-27b-pt"]


@pytest.mark.parametrize(
    ("l0", "layer", "layers", "everywhere", "target"),
    [
        ("big", 12, 48, False, 127),
        ("big", 16, 62, False, 129),
        ("big", 0, 62, True, 60),
        ("big", 12, 18, False, 150),
        ("big", 12, 18, True, 120),
        ("medium", 12, 18, False, 60),
        ("small", 0, 34, True, 10),
        ("small", 33, 34, True, 20),
    ],
)
def test_l0_targets_follow_the_depth(l0, layer, layers, everywhere, target):
    assert gemma_scope.l0_target(l0, layer, layers, everywhere) == target


def test_joint_names():
    assert len(gemma_scope_names.joint_names("1b")) == 16
    assert len(gemma_scope_names.joint_names("27b")) == 8
    assert "crosscoder/layer_5_9_12_15_width_65k_l0_medium" in gemma_scope_names.joint_names("270m")


@pytest.mark.parametrize(
    ("family", "read", "write", "kind"),
    [
        ("resid_post", "resid_post.12", "resid_post.12", "sae"),
        ("resid_post_all", "resid_post.12", "resid_post.12", "sae"),
        ("attn_out", "attn_heads.12", "attn_heads.12", "sae"),
        ("mlp_out_all", "mlp_out.12", "mlp_out.12", "sae"),
        ("transcoder_all", "mlp_in.12", "mlp_out.12", "transcoder"),
    ],
)
def test_every_family_is_read_at_its_site(publish, family, read, write, kind):
    tensors = params(d_out=D if kind == "sae" else OUT)
    entry = only(publish(f"{family}/layer_12_width_16k_l0_big", tensors))
    assert ([str(each) for each in (*entry.reads, *entry.writes)], entry.kind) == ([read, write], kind)
    assert (entry.width, entry.l0, entry.target) == ("16k", "big", 120.0 if "_all" in family else 150.0)
    assert ("all" in entry.tags) == family.endswith("_all")
    assert entry.provenance.model == "google/gemma-3-270m"
    assert [name.rsplit("/", 1)[-1] for name in entry.files] == ["params.safetensors"]
    agrees(entry.build(), tensors)


def test_the_affine_skip_is_not_transposed(publish):
    tensors = params(affine=True)
    entry = only(publish("transcoder/layer_9_width_262k_l0_small_affine", tensors))
    assert entry.tags == ("affine",)
    agrees(entry.build(), tensors)


def test_a_threshold_is_exceeded_strictly(publish):
    tensors = params() | {"w_enc": torch.zeros(D, F), "b_enc": torch.ones(F), "threshold": torch.ones(F)}
    coder = only(publish("resid_post/layer_5_width_16k_l0_big", tensors)).build()
    assert coder.encode(torch.randn(3, D)).dense().count_nonzero() == 0


def test_a_lone_folder_is_read_by_its_config(publish, tmp_path):
    tensors = params()
    config = (
        '{"hf_hook_point_in": "model.layers.12.self_attn.o_proj.input", "model_name": "gemma-v3-1b-it", "width": 40}'
    )
    folder = publish("layer_12_width_16k_l0_medium", tensors, config).rename(tmp_path / "mine")
    entry = only(folder)
    assert (entry.id, entry.provenance.model) == ("attn_heads.12", "google/gemma-3-1b-it")
    assert load_scope(folder).untrained == ("bos", "template")
    agrees(entry.build(), tensors)
    (folder / "layer_12_width_16k_l0_medium" / "config.json").unlink()
    with pytest.raises(BadArtefact, match="does not say which site"):
        find_entries(files_of(folder))


@pytest.mark.parametrize(
    ("change", "config", "reason"),
    [
        ({"affine_skip_connection": torch.zeros(D, D)}, None, "name says no affine skip"),
        ({"w_dec": torch.zeros(F + 1, D)}, None, "must be"),
        ({"threshold": torch.full((F,), torch.nan)}, None, "not finite"),
        ({"b_enc": torch.full((F,), torch.inf)}, None, "not finite"),
        ({}, '{"hf_hook_point_in": "model.layers.3.output"}', "its folder resid_post.12"),
        ({}, '{"width": 16384}', "says 16384 latents"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(publish, change, config, reason):
    entry = only(publish("resid_post/layer_12_width_16k_l0_big", params() | change, config))
    with pytest.raises(BadArtefact, match=reason) as told:
        entry.build()
    assert str(told.value).startswith("The coder resid_post/layer_12_width_16k_l0_big of ")


def test_a_truncated_or_renamed_file_is_refused(publish):
    folder = publish("resid_post/layer_12_width_16k_l0_big", params())
    file = folder / "resid_post/layer_12_width_16k_l0_big/params.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-100], whole[:20], b"", whole + b"more", b"\xff" * 200):
        file.write_bytes(damaged)
        with pytest.raises(BadArtefact, match="cannot be read"):
            only(folder).build()
    save_file({f"x_{key}": value for key, value in params().items()}, file)
    with pytest.raises(BadArtefact, match="lacks the tensor 'w_enc'"):
        only(folder).build()


def joint(folder: Path, layers: int, label: str, affine: bool = False, causal: bool = True) -> list[dict[str, Tensor]]:
    parts = []
    for layer in range(layers):
        tensors = params(affine=affine) | {"w_dec": torch.randn(F, layers, D)}
        if causal:
            tensors["w_dec"][:, :layer] = 0
        (folder / label).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / label / f"params_layer_{layer}.safetensors")
        parts.append(tensors)
    return parts


def joint_formula(parts: list[dict[str, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
    z = torch.stack([x[:, i] @ t["w_enc"] + t["b_enc"] for i, t in enumerate(parts)], 1)
    a = z.relu() * (z > torch.stack([t["threshold"] for t in parts]))
    y = torch.einsum("blf,lfod->bod", a, torch.stack([t["w_dec"] for t in parts]))
    y = y + torch.stack([t["b_dec"] for t in parts])
    if "affine_skip_connection" in parts[0]:
        y = y + torch.einsum("bld,lde->ble", x, torch.stack([t["affine_skip_connection"] for t in parts]))
    return a.flatten(1), y


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_cross_layer_transcoder_is_the_published_sum(tmp_path, affine, causal):
    end = "_affine" if affine else ""
    parts = joint(tmp_path, 4, f"clt/width_262k_l0_big{end}", affine, causal)
    entry = only(tmp_path)
    assert (entry.kind, entry.width, entry.target, entry.tags) == ("clt", "262k", 150.0, ("affine",) if affine else ())
    assert [str(site) for site in entry.reads] == [f"mlp_in.{layer}" for layer in range(4)]
    assert [str(site) for site in entry.writes] == [f"mlp_out.{layer}" for layer in range(4)]
    coder, x = entry.build(), torch.randn(5, 4, D)
    latents, reconstruction = joint_formula(parts, x)
    assert near(coder.encode(x).dense(), latents)
    assert near(coder(x), reconstruction)
    assert len(coder.parts[3].writes) == (1 if causal else 4)


def test_a_crosscoder_reads_and_writes_four_layers(tmp_path):
    parts = joint(tmp_path, 4, "crosscoder/layer_5_9_12_15_width_65k_l0_medium")
    entry = only(tmp_path)
    assert (entry.kind, entry.target) == ("crosscoder", 50.0)
    assert [str(site) for site in entry.reads] == [f"resid_post.{layer}" for layer in (5, 9, 12, 15)]
    x = torch.randn(5, 4, D)
    assert near(entry.build()(x), joint_formula(parts, x)[1])


def test_a_joint_coder_without_one_of_its_files_is_refused(tmp_path):
    joint(tmp_path, 3, "clt/width_262k_l0_big")
    (tmp_path / "clt/width_262k_l0_big/params_layer_2.safetensors").unlink()
    with pytest.raises(BadArtefact, match=r"must be \(latents, 2, d\)"):
        only(tmp_path).build()
    home = tmp_path / "gemma-scope-2-1b-pt"
    joint(home, 3, "clt/width_262k_l0_big")
    with pytest.raises(BadArtefact, match="its model needs 26"):
        only(home).build()


def first_scope(root: Path, repository: str, name: str, spelled: str = "W_") -> dict[str, Tensor]:
    tensors = params()
    file = root / repository / name / "params.npz"
    file.parent.mkdir(parents=True)
    np.savez(file, **{key.replace("w_", spelled): value.numpy() for key, value in tensors.items()})
    return tensors


@pytest.mark.parametrize(
    ("family", "read", "write"),
    [
        ("res", "resid_post.20", "resid_post.20"),
        ("att", "attn_heads.20", "attn_heads.20"),
        ("mlp", "mlp_out.20", "mlp_out.20"),
        ("transcoders", "mlp_in_pregain.20", "mlp_out.20"),
    ],
)
@pytest.mark.parametrize("spelled", ["W_", "w_"])
def test_the_first_scope_is_read_at_its_sites(tmp_path, family, read, write, spelled):
    name = "layer_20/width_16k/average_l0_71"
    tensors = first_scope(tmp_path, f"gemma-scope-2b-pt-{family}", name, spelled)
    entry = only(tmp_path / f"gemma-scope-2b-pt-{family}")
    assert [str(each) for each in (*entry.reads, *entry.writes)] == [read, write]
    assert (entry.name, entry.width, entry.l0, entry.target) == (name, "16k", "71", 71.0)
    assert entry.provenance.model == "google/gemma-2-2b"
    agrees(entry.build(), tensors)


def test_a_compressed_npz_is_read_whole(tmp_path):
    tensors = params()
    folder = tmp_path / "gemma-scope-9b-it-res/layer_9/width_65k/average_l0_51"
    folder.mkdir(parents=True)
    np.savez_compressed(
        folder / "params.npz", **{key.replace("w_", "W_"): value.numpy() for key, value in tensors.items()}
    )
    agrees(only(tmp_path / "gemma-scope-9b-it-res").build(), tensors)


def test_embedding_autoencoders_take_scaled_embeddings(tmp_path):
    tensors = first_scope(tmp_path, "gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6")
    entry = only(tmp_path / "gemma-scope-2b-pt-res")
    row, scale = torch.randn(5, D), D**0.5
    latents, reconstruction = formula(tensors, row)
    assert entry.id == "embed"
    assert near(entry.build().encode(row * scale).dense(), latents)
    assert near(entry.build()(row * scale), reconstruction * scale)


def test_the_first_scope_needs_its_repository_name(tmp_path):
    first_scope(tmp_path, "somewhere", "layer_20/width_16k/average_l0_71")
    with pytest.raises(BadArtefact, match="only a repository's name tells the site"):
        find_entries(files_of(tmp_path / "somewhere"))


def test_an_npz_that_holds_objects_is_refused(tmp_path):
    folder = tmp_path / "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", W_enc=np.array([object()], dtype=object))
    with pytest.raises(BadArtefact, match="cannot be read"):
        only(tmp_path / "gemma-scope-2b-pt-res").build()


@pytest.mark.slow
def test_every_listed_path_of_the_first_scope_is_understood(data):
    listed = yaml.load(
        (data / "releases" / "gemma-scope-registry" / "pretrained_saes.yaml").read_text(),
        Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
    )
    counted = 0
    for release in listed.values():
        repository, paths = release["repo_id"], {each["path"] for each in release["saes"]}
        if not repository.startswith("google/gemma-scope-") or "gemma-scope-2-" in repository:
            continue
        sizes = {path.removesuffix("/params.npz") + "/params.npz": 1 for path in paths}
        entries = find_entries(Files(repository, repository, sizes, Path))
        assert len(entries) == len(sizes), repository
        for entry in entries:
            assert entry.name.endswith(f"width_{entry.width}/average_l0_{entry.l0}")
            layer = entry.reads[0].layer
            assert entry.name.startswith("embedding/" if layer is None else f"layer_{layer}/")
        counted += len(entries)
    assert counted > 2000
