"""Every route, what it refuses, and that groups come back from the disk."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from glassworks import artefacts
from glassworks.circuits import load_graph
from glassworks.errors import BadInput, NotFound
from glassworks.server import create_app, serve

BASE = "http://127.0.0.1"


@pytest.fixture
def client(graphs: Path, toy_scope: Path) -> TestClient:
    return TestClient(create_app(graphs, scope=str(toy_scope)), base_url=BASE)


def put(client: TestClient, value: object, **headers: str):
    return client.put("/api/graph/toy/groups", content=json.dumps(value), headers=JSON | headers)


JSON = {"content-type": "application/json"}
GROUPS = {"pinned": ["3"], "supernodes": [{"name": "felines", "nodes": ["1", "2"]}]}


def test_pages_and_their_twins(client: TestClient) -> None:
    for page in ("/", "/graph/toy"):
        answer = client.get(page)
        assert answer.status_code == 200
        assert "importmap" in answer.text
        assert "script-src 'self' 'sha256-" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    entries = client.get("/api/graphs").json()["graphs"]
    assert [(each["name"], each["prompt"]) for each in entries] == [("toy", "the cat sat on the")]
    document = client.get("/api/graph/toy").json()
    assert document["prompt"] == "the cat sat on the"
    assert len(document["nodes"]) == entries[0]["nodes"]


def test_every_module_of_the_import_map_is_served(client: TestClient) -> None:
    text = client.get("/").text
    imports = json.loads(text.partition('<script type="importmap">')[2].partition("</script>")[0])["imports"]
    assert {"glassworks/main", "d3-selection", "d3-zoom"} <= set(imports)
    for address in imports.values():
        answer = client.get(address)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/javascript")
    assert client.get("/static/explorer.css").headers["content-type"].startswith("text/css")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2f%2e%2e%2ferrors.py",
        "/static/..\\app.py",
        "/static//etc/passwd",
        "/static/index.html",
        "/api/graph/..",
        "/api/graph/%2e%2e",
        "/api/graph/%2e%2e%2fgraphs%2ftoy",
        "/api/graph/toy%2f..%2ftoy",
        "/graph/..%2ftoy.html",
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
    ],
)
def test_no_request_leaves_the_folder(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "glassworks.server" not in answer.text
    assert "root:" not in answer.text


def test_unknown_names_get_one_clear_sentence(client: TestClient) -> None:
    answer = client.get("/api/graph/toi")
    assert answer.status_code == 404
    assert answer.json() == {"error": "There is no graph 'toi' here; the nearest are toy."}
    assert client.get("/graph/toi").status_code == 404
    assert client.get("/nothing").json() == {"error": "Not Found"}
    assert "features 0 to 11" in client.get("/api/graph/toy/feature/mlp_in.0/12").json()["error"]
    assert "no coder 'mlp_in.7'" in client.get("/api/graph/toy/feature/mlp_in.7/0").json()["error"]


def test_evidence_of_a_feature(client: TestClient) -> None:
    details = client.get("/api/graph/toy/feature/mlp_in.0/2").json()
    assert details["label"] == "label 2"
    assert details["density"] == pytest.approx(0.02, rel=1e-3)
    assert details["top_tokens"] == [{"token": " cat", "weight": 2.0}]
    assert details["context_tokens"] == [" cat"]
    assert details["following_tokens"] == []
    assert details["top_logits"] == [{"token": " mat", "value": 1.5}]
    assert details["bottom_logits"] == [{"token": " rug", "value": -1.25}]
    assert details["examples"] == [{"tokens": [" the", " cat"], "activations": [0.0, 3.0]}]
    assert client.get("/api/graph/toy/feature/mlp_in.2/2").json()["examples"] == []


def test_a_graph_without_its_scope_is_still_shown(graphs: Path) -> None:
    client = TestClient(create_app(graphs), base_url=BASE)
    answer = client.get("/api/graph/toy/feature/mlp_in.0/2")
    assert answer.status_code == 404
    assert "toy-scope" in answer.json()["error"]
    page = client.get("/graph/toy.html")
    assert page.status_code == 200
    assert page.headers["content-disposition"].startswith("attachment")


def test_groups_are_saved_with_the_graph(client: TestClient, graphs: Path) -> None:
    assert client.get("/api/graph/toy/groups").json() == {"pinned": [], "supernodes": []}
    assert put(client, GROUPS, origin=BASE).json() == GROUPS
    assert client.get("/api/graph/toy/groups").json() == GROUPS
    assert client.get("/api/graph/toy").json()["supernodes"] == GROUPS["supernodes"]
    graph = load_graph(graphs / "toy")
    assert graph.pinned == [3]
    assert graph.supernodes["felines"].nodes == (1, 2)
    artefacts.read(graphs / "toy", "graph").verify()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "Groups are written"),
        ({"pinned": []}, "Groups are written"),
        ({"pinned": ["99999"], "supernodes": []}, "There is no node '99999'"),
        ({"pinned": [1], "supernodes": []}, "There is no node 1"),
        ({"pinned": [], "supernodes": [{"name": " ", "nodes": []}]}, "A group's name is ' '"),
        ({"pinned": [], "supernodes": [{"name": "a", "nodes": []}] * 2}, "different texts"),
        ({"pinned": [], "supernodes": [{"name": "a", "nodes": "1"}]}, "A list of node ids is needed"),
        ({"pinned": [], "supernodes": ["a"]}, "A group's name is None"),
    ],
)
def test_bad_groups_are_refused(client: TestClient, value: object, message: str) -> None:
    answer = put(client, value)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert client.get("/api/graph/toy/groups").json() == {"pinned": [], "supernodes": []}


def test_what_is_no_json_or_too_long_is_refused(client: TestClient) -> None:
    assert client.put("/api/graph/toy/groups", content="{", headers=JSON).status_code == 400
    assert client.put("/api/graph/toy/groups", content=b"x" * 4_000_001, headers=JSON).status_code == 413
    assert client.post("/api/graph/toy/groups", content="{}", headers=JSON).status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "evil.example:80", ""])
def test_other_hosts_are_refused(client: TestClient, host: str) -> None:
    answer = client.get("/api/graphs", headers={"host": host})
    assert answer.status_code == 403
    assert "This server answers to" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:81", "127.0.0.1:9", "[::1]", "[::1]:8000"])
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/graphs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:81"},
        {"sec-fetch-site": "cross-site"},
        {"content-type": "text/plain"},
    ],
)
def test_other_sites_change_nothing(client: TestClient, headers: dict[str, str]) -> None:
    assert put(client, GROUPS, **headers).status_code == 403
    assert client.get("/api/graph/toy/groups").json()["pinned"] == []


def test_more_hosts_can_be_allowed(graphs: Path) -> None:
    client = TestClient(create_app(graphs, hosts=("box.local",)), base_url="http://box.local:8000")
    assert client.get("/").status_code == 200


def test_one_graph_or_a_json_file_can_be_served_alone(graphs: Path, data: Path) -> None:
    alone = TestClient(create_app(graphs / "toy"), base_url=BASE)
    assert [each["name"] for each in alone.get("/api/graphs").json()["graphs"]] == ["toy"]
    file = data / "graphs" / "gemma-2-2b" / "bee-insect-clt.json"
    foreign = TestClient(create_app(file), base_url=BASE)
    assert len(foreign.get("/api/graph/bee-insect-clt").json()["nodes"]) == 266
    answer = foreign.put("/api/graph/bee-insect-clt/groups", content=json.dumps(GROUPS), headers=JSON)
    assert answer.status_code == 400
    assert "JSON file" in answer.json()["error"]


def test_results_of_a_trace_are_found_by_their_folder(tmp_path: Path, toy_graph) -> None:
    toy_graph.save(tmp_path / "a-prompt" / "graph")
    (tmp_path / "a-prompt" / "graph.json").write_text(json.dumps(toy_graph.to_json("a-prompt")))
    for folder, name in ((tmp_path, "a-prompt"), (tmp_path / "a-prompt", "graph")):
        client = TestClient(create_app(folder), base_url=BASE)
        assert [each["name"] for each in client.get("/api/graphs").json()["graphs"]] == [name]
        assert client.get(f"/api/graph/{name}").json()["nodes"]
        assert client.put(f"/api/graph/{name}/groups", json={"pinned": [], "supernodes": []}).status_code == 200


def test_the_newest_graph_comes_first(graphs: Path, toy_graph) -> None:
    (graphs / "notes").mkdir()
    (graphs / "notes.json").write_text("[]")
    toy_graph.save(graphs / "later")
    client = TestClient(create_app(graphs), base_url=BASE)
    assert {each["name"] for each in client.get("/api/graphs").json()["graphs"]} == {"toy", "later"}


def test_an_empty_folder_has_no_graphs(tmp_path: Path) -> None:
    client = TestClient(create_app(tmp_path), base_url=BASE)
    assert client.get("/api/graphs").json() == {"graphs": []}
    assert client.get("/").status_code == 200
    assert client.get("/api/graph/toy").json()["error"] == "There is no graph 'toy' here; there are none."


@pytest.mark.slow
def test_it_is_served_until_it_is_interrupted(graphs: Path) -> None:
    code = "import sys; from glassworks.server import serve; serve(sys.argv[1], port=0)"
    command = [sys.executable, "-c", code, str(graphs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address is not None
        assert httpx.get(address[0] + "api/graphs").json()["graphs"][0]["name"] == "toy"
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 0
    assert complaints == ""


def test_a_missing_folder_and_a_taken_port_say_so(graphs: Path, address: str) -> None:
    with pytest.raises(NotFound, match="There is no folder"):
        create_app(graphs / "nowhere")
    with pytest.raises(BadInput, match="Nothing can listen"):
        serve(graphs, port=int(address.rpartition(":")[2]))
