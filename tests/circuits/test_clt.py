"""A cross-layer transcoder end to end: saved, opened without reading it, traced, found and changed."""

import pytest
import torch

import glassworks as gw
from glassworks.circuits import load_graph, trace
from glassworks.coders import Scope, Stored, save_scope, shelf
from glassworks.errors import BadInput
from glassworks.features import collect
from tests.circuits.tiny import PROMPT, random_clt, random_model


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[gw.Model, Scope, Scope]:
    """A model, a scope in memory, and the same from its files."""
    model, path = random_model("gemma3"), tmp_path_factory.mktemp("clt") / "scope"
    scope = random_clt(model, skip=True)
    save_scope(scope, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "RESIDENT_BYTES", 0)
        lazy = gw.load_scope(path)
        assert isinstance(lazy["clt/resid_mid.0"].w_enc, Stored)
    return model, scope, lazy


def test_a_graph_from_files_is_the_graph_from_memory(pair):
    model, scope, lazy = pair
    one, two = trace(model, scope, PROMPT), trace(model, lazy, PROMPT)
    assert one.origin.coders == {f"mlp.{layer}": f"clt/resid_mid.{layer}" for layer in range(3)}
    assert torch.equal(one.nodes.index, two.nodes.index)
    assert (one.matrix - two.matrix).norm() <= 1e-6 * one.matrix.norm()
    assert two.nodes[0].label == f"clt/resid_mid.0 feature {two.nodes[0].index}"


def test_a_feature_of_a_clt_is_changed_where_it_writes(pair):
    model, _, lazy = pair
    graph = trace(model, lazy, PROMPT)
    group = graph.find(graph.nodes[0].label)
    ref = group.features[0]
    sites = [f"mlp_out.{layer}" for layer in range(3)]
    before = model.capture(PROMPT, sites)
    with model.edit(gw.ablate(group), frozen=("patterns", "norms", "mlps")):
        after = model.capture(PROMPT, sites)
    index = torch.tensor([ref.index])
    for name, site in zip(sites, lazy["clt"].writes, strict=True):
        row = lazy[ref.coder_id].decoder_rows(index, site)[0] * graph.nodes[0].activation
        moved = before[name][ref.position] - after[name][ref.position]
        torch.testing.assert_close(moved, row, rtol=1e-3, atol=1e-5)


def test_the_graph_is_saved_with_its_parts(pair, tmp_path):
    model, _, lazy = pair
    trace(model, lazy, PROMPT).save(tmp_path / "graph")
    assert load_graph(tmp_path / "graph").origin.coders["mlp.2"] == "clt/resid_mid.2"


def test_a_scope_that_names_no_replacement_is_refused(pair):
    model, scope, _ = pair
    with pytest.raises(BadInput, match=r"scope\.choose"):
        trace(model, Scope("many", "random", scope.coders, []), PROMPT)


def test_evidence_of_a_clt_is_that_of_its_parts(pair, tmp_path):
    model, scope, _ = pair
    found = collect(model, scope, [PROMPT] * 2)
    assert list(found) == [f"clt/resid_mid.{layer}" for layer in range(3)]
    scope.evidences.update(found)
    save_scope(scope, tmp_path / "scope")
    again = gw.load_scope(tmp_path / "scope")
    kept = again.evidence("clt/resid_mid.1")
    assert kept is not None
    assert torch.allclose(kept.density, found["clt/resid_mid.1"].density, atol=1e-3)
    assert "clt/resid_mid.1" in again
