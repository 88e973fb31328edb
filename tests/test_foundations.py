"""Errors, sites and artefacts: the values that every room shares."""

import json

import pytest
import torch

from glassworks import artefacts
from glassworks.errors import BadArtefact, BadInput, GlassworksError, NotFound, nearest
from glassworks.sites import KINDS, Site


@pytest.mark.parametrize("text", ["mlp_in.12", "resid_post.0", "logits", "embed"])
def test_a_site_is_written_as_it_is_read(text):
    assert str(Site.parse(text)) == text
    assert Site.parse(Site.parse(text)) == Site.parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mlp_inn.1", "nearest are mlp_in"),
        ("mlp_in", "write it like 'mlp_in.0'"),
        ("logits.3", "write it like 'logits'"),
        ("mlp_in.-1", "whole number"),
        ("mlp_in.x", "whole number"),
        ("", "no site kind ''"),
    ],
)
def test_a_wrong_site_says_what_is_right(text, says):
    with pytest.raises(NotFound, match=says):
        Site.parse(text)


def test_sites_sort_by_kind_and_layer():
    assert sorted([Site("mlp_in", 10), Site("mlp_in", 2)])[0].layer == 2
    assert all(kind.meaning and kind.shape for kind in KINDS.values())


def test_nearest_lists_what_is_close_or_what_there_is():
    assert nearest("Smallwrld", ["smallworld", "gemma"]) == "the nearest are smallworld"
    assert nearest("zzz", ["a", "b"]) == "there are a, b"
    assert nearest("zzz", []) == "there are none"
    assert nearest("zzz", "abcdefg", most=2) == "there are a, b and 5 more"


def test_every_error_is_a_value_error():
    assert issubclass(GlassworksError, ValueError)
    assert all(issubclass(each, GlassworksError) for each in (NotFound, BadInput, BadArtefact))


def saved(path):
    return artefacts.write(
        path, "scope", {"layers": 2}, {"mlp_in.0": {"w": torch.eye(3)}}, {"labels": ["ä"]}, parents=["smallworld"]
    )


def test_an_artefact_reads_back(tmp_path):
    written = saved(tmp_path / "a")
    read = artefacts.read(tmp_path / "a", "scope")
    assert read == written
    assert read.fields == {"layers": 2}
    assert read.parents == ["smallworld"]
    assert torch.equal(read.tensors("mlp_in.0")["w"], torch.eye(3))
    assert read.table("labels") == ["ä"]
    read.verify()
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_an_artefact_replaces_only_its_own_kind(tmp_path):
    saved(tmp_path / "a")
    saved(tmp_path / "a")
    with pytest.raises(BadInput, match="something else than a graph"):
        artefacts.write(tmp_path / "a", "graph", {})
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is a file; choose another"):
        artefacts.write(tmp_path / "file", "graph", {})


def test_a_failed_write_leaves_nothing(tmp_path):
    saved(tmp_path / "a")

    def fail():
        with artefacts.replacing(tmp_path / "a", "scope") as folder:
            (folder / "half").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    artefacts.read(tmp_path / "a", "scope").verify()


def test_damage_is_named(tmp_path):
    artefact = saved(tmp_path / "a")
    (tmp_path / "a" / "mlp_in.0.safetensors").write_bytes(b"short")
    with pytest.raises(BadArtefact, match=r"mlp_in\.0\.safetensors"):
        artefact.verify()
    with pytest.raises(BadArtefact, match="cannot be read"):
        artefact.tensors("mlp_in.0")
    (tmp_path / "a" / "labels.json").unlink()
    with pytest.raises(BadArtefact, match=r"lacks its file labels\.json"):
        artefact.verify()


def test_foreign_folders_are_refused(tmp_path):
    with pytest.raises(NotFound, match="There is no folder"):
        artefacts.read(tmp_path / "no", "scope")
    with pytest.raises(BadArtefact, match="not readable JSON"):
        artefacts.read(tmp_path, "scope")
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "graph"}))
    with pytest.raises(BadArtefact, match="holds a graph, not a scope"):
        artefacts.read(tmp_path, "scope")
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "scope", "schema": 99}))
    with pytest.raises(BadArtefact, match="newer version"):
        artefacts.read(tmp_path, "scope")
