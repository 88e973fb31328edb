"""Circuits: what many graphs share, as a value that can be written down."""

import pytest

import glassworks as gw
from glassworks import smallworld
from glassworks.circuits import Circuit, Group, cut, load_circuit, read_circuit, read_head, reply_graphs, trace
from glassworks.edits import FeatureRef
from glassworks.errors import BadArtefact, BadInput, NotFound
from tests.circuits import tiny

PROMPTS = (tiny.PROMPT, [*tiny.PROMPT[:-1], 9], [*tiny.PROMPT[:-2], 5, 7])


@pytest.fixture(scope="module")
def world():
    model = tiny.random_model("gemma3")
    return model, tiny.random_scope(model)


def test_a_circuit_holds_what_pushes_in_all_graphs(world):
    model, scope = world
    graphs = [trace(model, scope, prompt) for prompt in PROMPTS]
    found = cut(graphs, most=5, heads=[(1, 0), (0, 1)])
    assert sum(len(group.features) for group in found.groups) <= 5
    assert [group.name for group in found.groups if group.heads] == ["heads.0", "heads.1"]
    assert all(ref.position is None for group in found.groups for ref in group.features)
    assert set(found.edges) <= {(one.name, two.name) for one in found.groups for two in found.groups}


def test_what_look_alikes_share_is_left_out(world):
    model, scope = world
    graphs = [trace(model, scope, PROMPTS[0])] * 2
    with pytest.raises(BadInput, match="No feature recurs"):
        cut(graphs, against=graphs)


def test_a_reply_has_a_graph_a_word():
    model, scope = gw.load_model("smallworld-s-it"), gw.load_scope("smallworld-s-it")
    exchange = smallworld.exchanges("harmful", 1, 0, "train")[0]
    graphs = reply_graphs(model, scope, [smallworld.chat_prompt(exchange.user)], "I cannot")
    assert [len(each.tokens) - len(graphs[0].tokens) for each in graphs] == [0, 1]
    found = cut(graphs, most=8)
    assert found.model == "smallworld-s-it"
    assert all(len(group) for group in found.groups)


def test_a_circuit_is_saved_and_loaded(tmp_path):
    groups = (Group("a", (FeatureRef("mlp_in.0", None, 3),)), Group("b", heads=((1, 2),)))
    circuit = Circuit("model", "scope", groups, {("a", "b"): 0.5}, ("text",))
    circuit.save(tmp_path / "circuit")
    assert load_circuit(tmp_path / "circuit") == circuit
    assert "1 features and 1 heads in 2 groups" in repr(circuit)
    with pytest.raises(NotFound, match="no group 'c'"):
        circuit["c"]
    with pytest.raises(BadArtefact, match="lacks or misstates"):
        read_circuit({"groups": []})
    with pytest.raises(BadInput, match="is no head"):
        read_head("one")
    with pytest.raises(BadInput, match="graphs of one model"):
        cut([])
