"""The codec: dataclasses to manifest and tensors and back, and one sentence for whatever is wrong in a file."""

import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks import artefacts, codec
from glassworks.errors import BadArtefact, BadInput
from glassworks.sites import Site


@dataclass(frozen=True)
class Part:
    width: Annotated[int, msgspec.Meta(ge=1)]
    kind: Literal["sae", "clt"] = "sae"
    note: str | None = None


@dataclass(frozen=True, eq=False)
class Record:
    parts: dict[str, Part]
    weights: Float[Tensor, "row column"]
    sites: tuple[Site, ...] = ()
    numbers: list[float] = field(default_factory=list)
    ids: Int[Tensor, " row"] | None = None


class Strict(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    k: int


GOOD = {"parts": {"a": {"width": 3}, "mlp_in.1": {"width": 4, "kind": "clt"}}, "sites": ["mlp_in.1", "embed"]}
RECORD = Record(
    {"mlp_in.1": Part(3, note="x")}, torch.randn(2, 3), (Site("mlp_in", 1),), [1.0, float("inf")], torch.arange(2)
)


def test_a_dataclass_reads_back_from_an_artefact(tmp_path):
    artefacts.save(tmp_path / "a", "thing", RECORD, ["b"])
    stored = artefacts.read(tmp_path / "a", "thing")
    assert stored.parents == ["b"]
    assert stored.fields["sites"] == ["mlp_in.1"]
    assert set(stored.files) == {"thing.safetensors"}
    again = artefacts.load(tmp_path / "a", "thing", Record)
    assert codec.plain(again.parts) == codec.plain(RECORD.parts)
    assert (again.sites, again.numbers) == (RECORD.sites, RECORD.numbers)
    assert torch.equal(again.weights, RECORD.weights)
    assert again.ids is not None


def test_a_tensor_that_is_none_is_written_nowhere(tmp_path):
    artefacts.save(tmp_path / "a", "thing", Record({}, torch.zeros(1, 1)))
    assert artefacts.load(tmp_path / "a", "thing", Record).ids is None
    assert "ids" not in artefacts.read(tmp_path / "a", "thing").fields


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parts": {}, "numbers": ["a"]}, "wrong field numbers[0]: it is 'a', and must be a number."),
        ({"parts": 3}, "wrong field parts: it is 3, and must be an object."),
        (
            {"parts": {"a": {"width": 3}, "b.1": {"width": "x"}}},
            "wrong field parts.b.1.width: it is 'x', and must be a whole number at least 1.",
        ),
        ({"parts": {"a": {"width": 0}}}, "parts.a.width: it is 0, and must be a whole number at least 1."),
        ({"parts": {"a": {}}}, "lacks the field 'width' in parts.a; it must be a whole number at least 1."),
        ({"parts": {"a": {"width": 1, "kind": "x"}}}, "parts.a.kind: it is 'x', and must be one of 'clt', 'sae'."),
        ({"parts": {"a": {"width": 1, "note": 2}}}, "parts.a.note: it is 2, and must be text or null."),
        ({"sites": ["mlp_in.1", "mlp_i.2"]}, "wrong field sites[1]: There is no site kind 'mlp_i'; the nearest are"),
        ({"sites": [3]}, "wrong field sites[0]: it is 3, and must be text."),
    ],
)
def test_a_wrong_field_is_one_sentence(change, sentence):
    with pytest.raises(BadArtefact) as caught:
        codec.decode(Record, GOOD | change, "file a.json", {"weights": torch.zeros(2, 3)})
    assert str(caught.value).startswith("The file a.json ")
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({}, "lacks the field 'weights'; it must be float numbers of shape (row column)."),
        (
            {"weights": torch.zeros(2)},
            "weights: it is float32 of shape (2), and must be float numbers of shape (row column).",
        ),
        ({"weights": torch.zeros(2, 3).int()}, "weights: it is int32 of shape (2 3), and must be float"),
        (
            {"weights": torch.zeros(2, 3), "ids": torch.arange(3)},
            "ids: it is int64 of shape (3), and must be int numbers of shape (row)",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_one_sentence(tensors, sentence):
    with pytest.raises(BadArtefact) as caught:
        codec.decode(Record, GOOD, "file a", tensors)
    assert sentence in str(caught.value)


def test_unknown_keys_are_ignored_unless_a_type_forbids_them():
    assert codec.decode(Part, {"width": 3, "new": 1}, "file a") == Part(3)
    with pytest.raises(BadInput, match=r"The file a has the unknown field 'kk'; the nearest are k\."):
        codec.decode(Strict, {"k": 1, "kk": 2}, "file a", error=BadInput)
    with pytest.raises(BadArtefact, match=r"The file a is wrong: it is \[1\], and must be an object\."):
        codec.decode(Strict, [1], "file a")


def test_a_damaged_manifest_is_one_sentence(tmp_path):
    artefacts.save(tmp_path / "a", "thing", Part(3))
    file = tmp_path / "a" / "manifest.json"
    whole = json.loads(file.read_text())
    for name in ("fields", "files", "parents"):
        for wrong in ({key: value for key, value in whole.items() if key != name}, whole | {name: 3}):
            file.write_text(json.dumps(wrong))
            with pytest.raises(BadArtefact, match=name):
                artefacts.read(tmp_path / "a", "thing")
    file.write_text(json.dumps(whole | {"files": {"x": {"bytes": "many"}}}))
    with pytest.raises(BadArtefact, match=r"manifest.json has a wrong field files\.x\.bytes|lacks the field 'sha256'"):
        artefacts.read(tmp_path / "a", "thing")


def test_a_table_has_the_type_that_is_asked_for(tmp_path):
    artefacts.write(tmp_path / "a", "thing", {}, tables={"t": {"x": [1, 2]}})
    stored = artefacts.read(tmp_path / "a", "thing")
    assert stored.table("t", dict[str, list[int]]) == {"x": [1, 2]}
    with pytest.raises(BadArtefact, match=r"t\.json has a wrong field x: it is \[1, 2\], and must be text"):
        stored.table("t", dict[str, str])
