"""Scopes on disk: the round trip is exact, and a damaged or foreign folder is named as such."""

import dataclasses
import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import glassworks as gw
from glassworks import artefacts
from glassworks.coders import Evidence, PerToken, ReLU, Scope, Stored, TopK, Transcoder, save_scope, shelf
from glassworks.errors import BadArtefact, BadInput, NotFound, Unsupported
from glassworks.sites import Site
from tests.coders.test_kinds import acausal, clt


def evidence(latents: int) -> Evidence:
    shapes = {
        "density": (latents,),
        "max_activation": (latents,),
        "example_tokens": (latents, 2, 5),
        "example_activations": (latents, 2, 5),
    }
    lists = ["top_token", "context_token", "following_token", "top_logit", "bottom_logit"]
    tensors = {name: torch.rand(shape) for name, shape in shapes.items()}
    tensors |= {f"{name}_ids": torch.ones(latents, 3) for name in lists}
    tensors |= {f"{name}_{end}": torch.rand(latents, 3) for name, end in [("top_token", "weights")]}
    tensors |= {f"{name}_values": torch.rand(latents, 3) for name in ("top_logit", "bottom_logit")}
    return Evidence(**{n: v.long() if n.endswith(("_ids", "_tokens")) else v for n, v in tensors.items()})


@pytest.fixture
def scope(build) -> Scope:
    coders = [build(layer=0), build(TopK(4), skip=False, layer=1), build(ReLU(), layer=2)]
    return Scope(
        name="toy-scope",
        model="toy",
        coders={each.id: each for each in coders},
        replacement=[each.id for each in coders],
        labels={"mlp_in.1": [f"label {number}" for number in range(40)]},
        untrained=("bos",),
        metrics={"fvu": 0.5},
        evidences={"mlp_in.2": evidence(40)},
    )


def test_round_trip_is_bit_exact(scope: Scope, tmp_path):
    save_scope(scope, tmp_path / "scope")
    again, x = gw.load_scope(tmp_path / "scope"), torch.randn(9, 8)
    assert list(again) == list(scope)
    assert len(again) == 3
    for name in scope:
        assert torch.equal(again[name](x), scope[name](x))
        assert again[name].activation.plain() == scope[name].activation.plain()
    assert again.name == str(tmp_path / "scope"), "a graph traced with it must be able to load it again"
    for field in ("model", "replacement", "labels", "untrained", "metrics"):
        assert getattr(again, field) == getattr(scope, field)
    found = again.evidence("mlp_in.2")
    assert found is not None
    for name, value in scope.evidences["mlp_in.2"].tensors().items():
        assert getattr(found, name).dtype == value.dtype
        assert torch.allclose(getattr(found, name), value, rtol=1e-3), name
    assert again.evidence("mlp_in.0") is None
    artefacts.read(tmp_path / "scope", "scope").verify()


def test_large_evidence_is_not_cut_off(scope: Scope, tmp_path):
    old = scope.evidences["mlp_in.2"].tensors()
    old |= {"max_activation": torch.full((40,), 1e7), "top_token_ids": torch.full((40, 3), 250_000)}
    scope.evidences["mlp_in.2"] = Evidence(**old)
    save_scope(scope, tmp_path / "scope")
    found = gw.load_scope(tmp_path / "scope").evidence("mlp_in.2")
    assert found is not None
    assert (found.max_activation == 1e7).all()
    assert (found.top_token_ids == 250_000).all()


def test_saving_again_keeps_the_evidence(scope: Scope, tmp_path):
    save_scope(scope, tmp_path / "one")
    save_scope(gw.load_scope(tmp_path / "one"), tmp_path / "two")
    assert gw.load_scope(tmp_path / "two").evidence("mlp_in.2") is not None


def test_half_precision_storage(scope: Scope, tmp_path):
    save_scope(scope, tmp_path / "scope", torch.float16)
    again = gw.load_scope(tmp_path / "scope")
    assert again["mlp_in.0"].w_enc.dtype == torch.float16
    assert again["mlp_in.0"].activation.threshold.dtype == torch.float32


def test_joint_coders_and_prefixes_are_saved_bit_by_bit(tmp_path):
    nested = Transcoder(Site("resid_post", 1), Site("resid_post", 1), ReLU(), acausal_like(10, 5, 5), prefixes=[2, 10])
    site = Site("resid_post", 7)
    scaled = PerToken(Transcoder(site, site, ReLU(), acausal_like(10, 5, 5)), "constant_norm").requires_grad_(False)
    coders = {"clt": clt(), "crosscoder/a": acausal(), "resid_post.1": nested, "resid_post.7": scaled}
    assert torch.equal(scaled.encode(torch.ones(2, 5)).dense(), scaled.encode(3 * torch.ones(2, 5)).dense())
    save_scope(Scope("joint", "toy", coders, ["clt"], labels={"clt/mlp_in.1": ["x"] * 12}), tmp_path / "scope")
    again, x = gw.load_scope(tmp_path / "scope"), torch.randn(4, 3, 5)
    for name in ("clt", "crosscoder/a"):
        assert torch.equal(again[name](x), coders[name](x))
    assert again["resid_post.1"].prefixes == (2, 10)
    assert torch.equal(again["resid_post.7"](x), scaled(x))
    assert [entry.kind for entry in again.entries] == ["clt", "crosscoder", "sae", "sae"]
    assert again.select(kind="clt") is again["clt"]
    assert again["clt/mlp_in.1"] is again["clt"].parts[1]
    assert again.label("clt/mlp_in.1", 3) == "x"


def acausal_like(latents: int, d_in: int, d_out: int) -> dict[str, torch.Tensor]:
    shapes = {"w_enc": (latents, d_in), "b_enc": (latents,), "w_dec": (latents, d_out), "b_dec": (d_out,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_listing_reads_no_weights(scope: Scope, tmp_path):
    """A file of the right size that holds nothing is noticed when its coder is taken, and only then."""
    save_scope(scope, tmp_path / "scope")
    file = tmp_path / "scope" / "mlp_in.1.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    again = gw.load_scope(tmp_path / "scope")
    assert [(entry.id, entry.width, entry.bytes > 0) for entry in again.entries][1] == ("mlp_in.1", "40", True)
    assert again["mlp_in.0"].d_latent == 40
    for _ in range(2):  # nothing broken is kept
        with pytest.raises(BadArtefact):
            again["mlp_in.1"]


def test_moving_a_scope_builds_nothing(scope: Scope, tmp_path):
    save_scope(scope, tmp_path / "scope")
    moved = gw.load_scope(tmp_path / "scope").to("meta")
    assert moved["mlp_in.1"].w_enc.device.type == "meta"
    assert scope.to("cpu")["mlp_in.1"].w_enc.device.type == "cpu"


def test_large_coders_stay_in_their_files(scope: Scope, tmp_path, monkeypatch):
    save_scope(scope, tmp_path / "scope")
    monkeypatch.setattr(shelf, "RESIDENT_BYTES", 0)
    again, x = gw.load_scope(tmp_path / "scope"), torch.randn(9, 8)
    for name in scope:
        assert isinstance(again[name].w_enc, Stored)
        assert torch.allclose(again[name](x), scope[name](x), atol=1e-6)


def release(build) -> Scope:
    """Several coders at a site, as published scopes have."""
    entries = []
    for layer, width, l0, tags in itertools.product((0, 1), ("16k", "65k"), ("small", "big"), ((), ("affine",))):
        coder = build(layer=layer)
        name = f"transcoder/layer_{layer}_width_{width}_l0_{l0}{''.join('_' + tag for tag in tags)}"
        plain = shelf.entry_of(name, coder)
        target = 20.0 if l0 == "small" else 60.0
        entries.append(dataclasses.replace(plain, width=width, l0=l0, tags=tags, target=target))
    return Scope("release", "toy", shelf.Shelf(entries), [])


def test_select(build):
    scope = release(build)
    found = scope.select("mlp_in.1", width="16k", l0="big")
    assert found.id == "transcoder/layer_1_width_16k_l0_big"
    assert scope.select("mlp_in.1", width="16k", l0="big", tags="affine").id == f"{found.id}_affine"
    assert scope.select("mlp_in.1", width="16k", l0=60) is found
    assert scope.select(name=found.id) is scope[found.id] is found


@pytest.mark.parametrize(
    ("wanted", "error", "says"),
    [
        ({"site": "mlp_in.1"}, BadInput, "8 coders with site mlp_in.1: transcoder/layer_1_width_16k_l0_small"),
        ({"site": "mlp_in.7"}, NotFound, r"nearest are .*mlp_in\.1"),
        ({"site": "mlp_in.1", "width": "1m"}, NotFound, "there are 16k, 65k"),
        ({"site": "mlp_in.1", "l0": "medium"}, NotFound, "there are big, small"),
        ({"site": "mlp_in.1", "kind": "clt"}, NotFound, "there are transcoder"),
        ({"width": "16k", "tags": ["seed_1"]}, NotFound, "there are affine"),
    ],
)
def test_what_cannot_be_selected_names_the_alternatives(build, wanted, error, says):
    with pytest.raises(error, match=says):
        release(build).select(**wanted)


def test_a_site_with_several_coders_must_be_told_apart(build):
    with pytest.raises(BadInput, match="say more of site, width"):
        release(build)["mlp_in.1"]


def test_choose_gives_a_replacement(build):
    scope = release(build).choose(width="16k", l0="small", tags=["affine"])
    assert list(scope.replacement_coders(2)) == [0, 1]
    assert scope["mlp_in.1"].id == "transcoder/layer_1_width_16k_l0_small_affine"
    assert release(build).choose(width="16k").replacement == []
    with pytest.raises(NotFound, match="there are 16k, 65k"):
        release(build).choose(width="1m")


def test_labels(scope: Scope):
    assert scope.label("mlp_in.1", 7) == "label 7"
    assert scope.label("mlp_in.0", 7) == ""


def test_replacement_coders(scope: Scope):
    assert {layer: coder.id for layer, coder in scope.replacement_coders(3).items()} == {
        0: "mlp_in.0",
        1: "mlp_in.1",
        2: "mlp_in.2",
    }
    with pytest.raises(NotFound, match="layer 3, 4"):
        scope.replacement_coders(5)


def test_an_unknown_coder_names_the_nearest(scope: Scope):
    with pytest.raises(NotFound, match=r"nearest are .*mlp_in\.2"):
        scope["mlp_in.22"]


def test_labels_that_do_not_fit_are_refused(scope: Scope, tmp_path):
    scope.labels["mlp_in.0"] = ["too few"]
    with pytest.raises(BadInput, match="40 latents but 1 labels"):
        save_scope(scope, tmp_path / "scope")


def test_no_such_folder(tmp_path):
    with pytest.raises(NotFound):
        gw.load_scope(str(tmp_path / "nothing"))


def test_another_kind_of_artefact(tmp_path):
    artefacts.write(tmp_path / "graph", "graph", {})
    with pytest.raises(BadArtefact, match="holds a graph, not a scope"):
        gw.load_scope(tmp_path / "graph")


def test_a_folder_without_manifest(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unsupported, match="no coders of a format that we know"):
        gw.load_scope(tmp_path / "empty")


def truncate(folder):
    file = folder / "mlp_in.0.safetensors"
    file.write_bytes(file.read_bytes()[:-50])


def remove(folder):
    (folder / "mlp_in.0.safetensors").unlink()


def change(folder, **tensors):
    file = folder / "mlp_in.0.safetensors"
    save_file({**load_file(file), **tensors}, file)


def reshape(folder):
    change(folder, b_enc=torch.zeros(39))


def unknown(folder):
    change(folder, foreign=torch.zeros(40))


def spoil(folder):
    change(folder, b_enc=torch.full((40,), float("nan")))


def rename(folder):
    for name in ("labels.json", "mlp_in.1.safetensors"):
        assert (folder / name).is_file()
    (folder / "mlp_in.1.safetensors").replace(folder / "mlp_in.0.safetensors")


def misstate(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["fields"]["coders"]["mlp_in.0"]["activation"]["kind"] = "nothing"
    (folder / "manifest.json").write_text(json.dumps(manifest))


def forget(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["fields"]["replacement"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("harm", [truncate, remove, reshape, unknown, spoil, rename, misstate, forget])
def test_damage_is_named(scope: Scope, tmp_path, harm):
    save_scope(scope, tmp_path / "scope")
    harm(tmp_path / "scope")
    with pytest.raises(BadArtefact):
        gw.load_scope(tmp_path / "scope")["mlp_in.0"]


def test_evidence_that_lacks_a_tensor(scope: Scope, tmp_path):
    save_scope(scope, tmp_path / "scope")
    file = tmp_path / "scope" / "evidence.mlp_in.2.safetensors"
    save_file({n: v for n, v in load_file(file).items() if n != "density"}, file)
    with pytest.raises(BadArtefact, match="lacks density"):
        gw.load_scope(tmp_path / "scope").evidence("mlp_in.2")


def test_public_objects_print_themselves_in_a_few_lines():
    scope = gw.load_scope("smallworld")
    printed = str(scope).splitlines()
    assert 3 <= len(printed) <= 20
    assert max(map(len, printed)) <= 120
    assert "22 coders, 4 of them replace the MLPs" in printed[0]
    assert scope._repr_html_().count("<tr>") == len(printed) - 1
    for name in ("mlp_in.0", next(entry.name for entry in scope.entries if entry.kind == "clt")):
        assert len(repr(scope[name]).splitlines()) == 1
        assert scope[name].id in scope[name]._repr_html_()
    assert str(Scope("a<b", "", {}, [])) == (
        "Scope('a<b', of an unnamed model: 0 coders, 0 of them replace the MLPs, labels for 0 sets of latents)"
    )
