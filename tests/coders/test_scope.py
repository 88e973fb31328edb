"""Scopes on disk: the round trip is exact, and a damaged or foreign folder is named as such."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import glassworks as gw
from glassworks import artefacts
from glassworks.coders import Evidence, ReLU, Scope, TopK, save_scope
from glassworks.errors import BadArtefact, BadInput, NotFound


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
    with pytest.raises(BadArtefact):
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
        gw.load_scope(tmp_path / "scope")


def test_evidence_that_lacks_a_tensor(scope: Scope, tmp_path):
    save_scope(scope, tmp_path / "scope")
    file = tmp_path / "scope" / "evidence.mlp_in.2.safetensors"
    save_file({n: v for n, v in load_file(file).items() if n != "density"}, file)
    with pytest.raises(BadArtefact, match="lacks density"):
        gw.load_scope(tmp_path / "scope").evidence("mlp_in.2")
