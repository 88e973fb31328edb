"""Exchange with circuit-tracer: its pickles are read without running them, its order of nodes is ours to give."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from glassworks.circuits import Graph, load_graph, trace
from glassworks.errors import BadArtefact, BadInput, NotFound
from glassworks.models import load_model
from tests.circuits.test_golden import golden_scope
from tests.circuits.tiny import PROMPT, random_model, random_scope

PICKLED = ["mini_llama_plt", "mini_gemma2_clt"]


@pytest.fixture(params=PICKLED)
def folder(request, data) -> Path:
    return data / "golden_graphs" / request.param


def test_their_pickles_are_read(folder):
    graph, gold = load_graph(folder / "graph.pt"), np.load(folder / "graph.npz")
    matrix, nodes = graph.dense(order="circuit-tracer")
    np.testing.assert_array_equal(matrix, gold["adjacency"])
    np.testing.assert_allclose([graph.replacement, graph.completeness], gold["scores"], atol=1e-5)
    assert graph.tokens == tuple(gold["input_tokens"])
    assert nodes.index[nodes.of("logit")].tolist() == gold["logit_ids"].tolist()
    np.testing.assert_allclose(nodes.activation[nodes.of("feature")], gold["activation_values"], rtol=1e-6)
    assert graph.conservation.isnan().all()  # biases are not in the file
    assert len(graph.prune().nodes) == gold["node_mask"].sum()


def test_our_graphs_come_in_their_order(folder):
    gold = np.load(folder / "graph.npz")
    graph = trace(load_model(folder / "model"), golden_scope(folder), gold["input_tokens"].tolist())
    matrix, nodes = graph.dense(order="circuit-tracer")
    assert matrix.shape == gold["adjacency"].shape
    assert len(nodes) == len(matrix)
    theirs = torch.from_numpy(gold["adjacency"])
    assert (matrix - theirs).norm() / theirs.norm() <= 1e-5
    kinds = nodes.kinds.tolist()
    assert kinds == sorted(kinds)
    with pytest.raises(BadInput, match="no order"):
        graph.dense(order="alphabetical")


def test_arrays_make_the_round_trip(tmp_path):
    model = random_model("gemma3")
    graph = trace(model, random_scope(model), PROMPT, targets=[7, (7, 9)])
    file = graph.export(tmp_path / "graph.npz")
    with np.load(file, allow_pickle=False) as stored:
        assert set(stored.files) >= {"adjacency_matrix", "active_features", "input_tokens", "logit_ids"}
    again = load_graph(file)
    assert torch.equal(again.dense("circuit-tracer")[0], graph.dense("circuit-tracer")[0])
    assert again.tokens == graph.tokens
    assert again.nodes.labels[-2:] == graph.nodes.labels[-2:]
    assert again.replacement == pytest.approx(graph.replacement)


def test_json_is_exported_and_read(tmp_path):
    model = random_model("llama")
    graph = trace(model, random_scope(model), PROMPT).prune()
    again = load_graph(graph.export(tmp_path / "tiny.json"))
    assert torch.equal(again.matrix, graph.matrix)
    with pytest.raises(BadInput, match="ends otherwise"):
        graph.export(tmp_path / "graph.pt")
    with pytest.raises(BadInput, match="cannot be written"):
        graph.export(tmp_path / "nowhere" / "graph.json")


# Files that mean harm, or are damaged.


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def packed(file: Path, value: object, **members: bytes) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        pickled = b"\x80\x02" + value if isinstance(value, bytes) else pickle.dumps(value, protocol=2)
        for name, content in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"graph/{name}", content)
        for name, content in members.items():
            archive.writestr(f"graph/data/{name}", content)
    return file


def test_nothing_in_a_pickle_is_run(tmp_path):
    victim = tmp_path / "victim"
    with pytest.raises(BadArtefact, match="which such a file does not need"):
        load_graph(packed(tmp_path / "harm.pt", {"cfg": Harm(victim)}))
    assert not victim.exists()
    for name in (b"os\nsystem", b"builtins\neval", b"torch\nload", b"torch._utils\n_rebuild_tensor"):
        with pytest.raises(BadArtefact):
            load_graph(packed(tmp_path / "harm.pt", b"c" + name + b"\n(X\x01\x00\x00\x00xtR."))


def test_their_objects_stay_inert(tmp_path):
    harmless = b"ccircuit_tracer.anything\nAnything\n(X\x01\x00\x00\x00xtR."
    with pytest.raises(BadArtefact, match="no graph"):
        load_graph(packed(tmp_path / "inert.pt", harmless))


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x02tQ%b\x89ccollections\nOrderedDict\n)RtR."
)


@pytest.mark.parametrize(
    ("place", "content"),
    [
        (b"K\x00(K\x02t(K\x01t", bytes(4)),  # the storage is shorter than it says
        (b"K\x00(K\x09t(K\x01t", bytes(8)),  # the tensor is longer than its storage
        (b"K\x01(K\x02t(K\x01t", bytes(8)),  # it starts too late
        (b"J\xff\xff\xff\xff(K\x02t(K\x01t", bytes(8)),  # it starts before
        (b"K\x00(K\x02t(J\xff\xff\xff\xfft", bytes(8)),  # it runs backwards
    ],
)
def test_tensors_stay_in_their_storage(tmp_path, place, content):
    with pytest.raises(BadArtefact, match=r"damaged|no graph"):
        load_graph(packed(tmp_path / "x.pt", TENSOR % place, **{"0": content}))


def test_damaged_files_are_refused_in_one_sentence(tmp_path, data):
    good = (data / "golden_graphs" / "mini_llama_plt" / "graph.pt").read_bytes()
    for name, content in {"short.pt": good[:5000], "text.pt": b"no zip", "text.npz": b"no zip", "x.txt": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadArtefact) as caught:
            load_graph(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(NotFound):
        Graph.from_file(tmp_path / "nothing.pt")
    with zipfile.ZipFile(tmp_path / "zipped.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("graph/data.pkl", pickle.dumps({}))
    with pytest.raises(BadArtefact, match="compressed"):
        load_graph(tmp_path / "zipped.pt")


@pytest.mark.parametrize("change", ["short", "downwards", "infinite", "layer"])
def test_contradictions_are_refused(tmp_path, change):
    model = random_model("llama")
    graph = trace(model, random_scope(model), PROMPT)
    file = graph.export(tmp_path / "graph.npz")
    with np.load(file) as stored:
        arrays = dict(stored)
    if change == "short":
        arrays["adjacency_matrix"] = arrays["adjacency_matrix"][:-1, :-1]
    elif change == "downwards":
        arrays["adjacency_matrix"][0, -20] = 1.0
        arrays["adjacency_matrix"][0, len(arrays["active_features"]) - 1] = 1.0
    elif change == "infinite":
        arrays["adjacency_matrix"][-1, 0] = np.inf
    else:
        arrays["active_features"][0, 0] = 40
    np.savez(file, **arrays)
    with pytest.raises(BadArtefact) as caught:
        load_graph(file)
    assert "\n" not in str(caught.value)
