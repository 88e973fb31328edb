"""What the page asks of a model: heads of edges, scores, and graphs of other targets; and what it refuses."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

import glassworks as gw
from glassworks.circuits import Graph, explain_attention, load_graph
from glassworks.edits import outcome, read_edit
from glassworks.notebook import write_html
from glassworks.server import create_app

from .browser import SCREENSHOTS, Browser

PROMPT = "The capital of the state containing Dallas is"
BASE = "/api/graph/dallas"


@pytest.fixture(scope="module")
def traced() -> Graph:
    return gw.trace(gw.load_model("smallworld"), gw.load_scope("smallworld"), PROMPT)


@pytest.fixture
def home(traced: Graph, tmp_path: Path) -> Path:
    strong = traced.influence.masked_fill(~traced.nodes.of("feature"), -1).topk(2).indices
    traced.group("state", strong.tolist())
    traced.save(tmp_path / "dallas")
    np.save(tmp_path / "probe.npy", np.ones(gw.load_model("smallworld").d_model, dtype=np.float32))
    return tmp_path


@pytest.fixture
def client(home: Path) -> TestClient:
    return TestClient(create_app(home), base_url="http://127.0.0.1")


def strongest(graph: Graph) -> tuple[int, int]:
    """The strongest edge of the graph that leads to another token."""
    across = graph.nodes.position[graph.rows][:, None] != graph.nodes.position[: graph.nodes.sources]
    row, column = divmod(int((graph.matrix.abs() * across).argmax()), graph.nodes.sources)
    return column, int(graph.rows[row])


def test_edges_and_heads_are_answered(client: TestClient, traced: Graph) -> None:
    source, target = strongest(traced)
    edge = client.get(f"{BASE}/edge/{source}/{target}").json()
    row = int((traced.rows == target).nonzero()[0, 0])
    assert edge["weight"] == pytest.approx(float(traced.matrix[row, source]), rel=1e-4)
    best = edge["heads"][0]
    assert (best["query"], best["key"]) == (int(traced.nodes.position[target]), int(traced.nodes.position[source]))
    score = client.get(f"{BASE}/head/{best['layer']}/{best['head']}/{best['query']}/{best['key']}").json()
    assert score["total"] == pytest.approx(score["score"], abs=1e-3)
    assert 0.5 < score["weight"] <= 1
    numbers = [each["source"]["node"] for each in score["keys"] if each["source"]["kind"] == "feature"]
    assert numbers
    assert all(traced.nodes.position[number] <= best["key"] for number in numbers)


def test_other_targets_become_graphs_beside_the_first(client: TestClient, home: Path, traced: Graph) -> None:
    targets = ["Austin - Sacramento", "likely@5", "mlp_in.1/17@5", "direction:probe.npy:resid_post.2@3"]
    answer = client.post(f"{BASE}/trace", json={"targets": targets})
    name = answer.json()["name"]
    assert name.startswith("dallas-austin-sacramento")
    made = load_graph(home / name)
    kinds = [each["kind"] for each in made.origin.facts["targets"]]
    assert [kinds[0], *kinds[-2:]] == ["logit", "feature", "direction"]
    assert made.tokens == traced.tokens
    assert made.supernodes["state"].nodes == traced.supernodes["state"].nodes
    assert made.conservation.max() < 1e-4
    document = client.get(f"/api/graph/{name}").json()
    assert {each["target"] for each in document["predictions"]} == {"difference", "logit", "feature", "direction"}
    assert document["next"] == " Austin"
    again = client.post(f"{BASE}/trace", json={"targets": targets}).json()["name"]
    assert again == f"{name}-2"
    assert {"dallas", name, again} == {each["name"] for each in client.get("/api/graphs").json()["graphs"]}


def test_one_graph_that_is_served_alone_gets_company(home: Path) -> None:
    client = TestClient(create_app(home / "dallas"), base_url="http://127.0.0.1")
    name = client.post(f"{BASE}/trace", json={"targets": ["next:2"]}).json()["name"]
    assert client.get(f"/api/graph/{name}").json()["tokens"][-1] == " Austin"
    assert [each["name"] for each in client.get("/api/graphs").json()["graphs"]] == ["dallas", name]


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("edge/0/{embedding}", 400, "edges lead into"),
        ("edge/99999/{target}", 400, "writes nothing"),
        ("edge/0/99999", 400, "reads nothing"),
        ("head/99/0/1/0", 400, "no head"),
        ("head/0/0/1/2", 400, "not after"),
        ("head/0/0/99/2", 400, "not after"),
    ],
)
def test_what_is_no_edge_or_head_is_refused(
    client: TestClient, traced: Graph, path: str, status: int, says: str
) -> None:
    embedding, target = int(traced.nodes.of("embedding").nonzero()[0, 0]), int(traced.rows[-1])
    answer = client.get(f"{BASE}/{path.format(embedding=embedding, target=target)}")
    assert answer.status_code == status
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ({}, 400),
        ({"targets": []}, 400),
        ({"targets": [3]}, 400),
        ({"targets": ["x" * 400]}, 400),
        ({"targets": ["Austin"] * 21}, 400),
        ({"targets": ["Austin@99"]}, 400),
        ({"targets": ["no such words at all"]}, 404),
        ({"targets": ["mlp_in.9/17"]}, 404),
        ({"targets": ["direction:/etc/passwd:resid_post.1"]}, 404),
        ({"targets": ["direction:../dallas/graph.safetensors:resid_post.1"]}, 404),
    ],
)
def test_what_cannot_be_traced_is_refused_and_nothing_is_written(client, home, value, status) -> None:
    before = sorted(each.name for each in home.iterdir())
    answer = client.post(f"{BASE}/trace", json=value)
    assert answer.status_code == status
    assert len(answer.json()["error"].splitlines()) == 1
    assert sorted(each.name for each in home.iterdir()) == before


def test_edits_are_tried_in_the_model_itself(client: TestClient, traced: Graph) -> None:
    model, scope = gw.load_model("smallworld"), gw.load_scope("smallworld")
    edits = [gw.ablate(traced.find("Texas")), gw.add_vector("resid_post.1", np.ones(model.d_model).tolist(), "last")]
    told = client.post(f"{BASE}/edit", json={"edits": [each.plain() for each in edits]}).json()
    with model.edit(*[read_edit(each.plain(), scope) for each in edits]):
        first = model.predict(PROMPT, k=1)[0]
        text = model.generate(PROMPT, 16)
    edited = max(told["choices"], key=lambda each: each["edited"])
    assert (edited["token"], told["edited_text"]) == (first.token, text)
    assert edited["edited"] == pytest.approx(first.probability, rel=1e-4)
    assert max(told["choices"], key=lambda each: each["clean"])["token"] == " Austin"
    assert told["edits"] == [str(each) for each in edits]


EDIT = {"operation": "zero", "target": {"features": ["mlp_in.1/17"]}}


@pytest.mark.parametrize(
    ("value", "status", "says"),
    [
        ([], 400, "Edits are written"),
        ({"edits": []}, 400, "Edits are written"),
        ({"edits": [EDIT] * 21}, 400, "Edits are written"),
        ({"edits": ["ablate"]}, 400, "Edits are written"),
        ({"edits": [{}]}, 400, "no edit"),
        ({"edits": [EDIT | {"where": [99]}]}, 400, "position 99"),
        ({"edits": [EDIT | {"target": {"features": ["mlp_in.1/99999"]}}]}, 404, "no feature mlp_in.1/99999"),
        ({"edits": [EDIT | {"target": {"features": ["mlp_in.7/1"]}}]}, 404, "no coder"),
        ({"edits": [EDIT | {"target": {"whole": "resid_post.99"}}]}, 404, "layers 0 to"),
    ],
)
def test_what_cannot_be_edited_is_refused(client: TestClient, value: object, status: int, says: str) -> None:
    answer = client.post(f"{BASE}/edit", json=value)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert len(answer.json()["error"].splitlines()) == 1


def test_other_sites_can_ask_for_nothing(client: TestClient, home: Path) -> None:
    for path, body in (("trace", {"targets": ["Austin"]}), ("edit", {"edits": [{}]})):
        for headers in (
            {"origin": "http://evil.example"},
            {"sec-fetch-site": "cross-site"},
            {"content-type": "text/plain"},
        ):
            sent = {"content-type": "application/json", **headers}
            assert client.post(f"{BASE}/{path}", content=json.dumps(body), headers=sent).status_code == 403
    assert len(list(home.iterdir())) == 2


def test_graphs_of_others_have_no_model_to_run(home: Path, traced: Graph) -> None:
    (home / "foreign.json").write_text(json.dumps(traced.prune().to_json("foreign")))
    client = TestClient(create_app(home), base_url="http://127.0.0.1")
    answer = client.get("/api/graph/foreign/edge/0/20")
    assert answer.status_code == 404
    assert "not traced by Glassworks" in answer.json()["error"]


@pytest.fixture
def address(home: Path) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(create_app(home), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def select(browser: Browser, node: int) -> None:
    click = "dispatchEvent(new MouseEvent('click', { bubbles: true }))"
    browser.js(f"document.querySelector(`[data-node='${{arguments[0]}}']`).{click}", node)
    browser.until(lambda: browser.all(".incoming .opener"))


def open_heads(browser: Browser, traced: Graph) -> None:
    select(browser, strongest(traced)[1])
    label = browser.js("return document.querySelector('.incoming .opener:not(.local)').ariaLabel")
    assert label.startswith("Heads of the edge from")
    browser.js("document.querySelector('.incoming .opener:not(.local)').click()")
    browser.until(lambda: browser.all(".heads .head"))
    browser.js("document.querySelector('.heads .head .opener').click()")
    browser.until(lambda: browser.all(".score .pairing"))
    assert "→" in browser.texts(".heads .way")[0]
    assert "past all heads" in browser.texts(".heads h4 small")[0]
    assert browser.texts(".score .lead")[0].startswith("Attention")


@pytest.mark.browser
def test_the_page_opens_heads_and_scores(browser: Browser, address: str, traced: Graph) -> None:
    browser.open(f"{address}/graph/dallas")
    open_heads(browser, traced)
    browser.js("document.querySelector('.incoming .heads').parentElement.scrollIntoView()")
    browser.screenshot("attention.png")
    walk = "const who = document.querySelector('.score button.who'); who.click(); return who.title"
    name = browser.js(walk)
    assert browser.until(lambda: browser.texts(".node-head h2"))[0].strip("“”") in name


@pytest.mark.browser
def test_the_page_tries_an_edit(browser: Browser, address: str, traced: Graph) -> None:
    browser.open(f"{address}/graph/dallas")
    select(browser, traced.supernodes["state"].nodes[0])
    browser.js("document.querySelector('.change select').value = '1'")
    browser.one(".change button.main").click()
    browser.until(lambda: browser.all(".outcome table"))
    group = list(traced.supernodes["state"].features)
    told = outcome(gw.load_model("smallworld"), PROMPT, [gw.ablate(group, gw.load_scope("smallworld"))], new_tokens=16)
    assert browser.texts(".outcome th[scope='row']")[:2] == [each.token.strip() for each in told.choices[:2]]
    assert told.edited_text.strip() in browser.text(".outcome")
    browser.screenshot("edit-group.png")
    set_field = (
        "const f = document.querySelector(arguments[0]); f.value = arguments[1]; f.dispatchEvent(new Event('change'))"
    )
    for field, value in (
        ("[aria-label='How']", "scale"),
        ("[aria-label='Amount']", "-8"),
        ("[aria-label='Where']", "all"),
    ):
        browser.js(set_field, field, value)
    before = browser.text(".outcome")
    browser.one(".change button.main").click()
    browser.until(lambda: browser.all(".outcome") and browser.text(".outcome") != before)
    browser.one(".change").screenshot(str(SCREENSHOTS / "edit-panel.png"))


@pytest.mark.browser
def test_the_page_explains_something_else(browser: Browser, address: str) -> None:
    browser.open(f"{address}/graph/dallas")
    browser.one("#query").click()
    browser.one("dialog input").send_keys("nothing like this")
    browser.one("dialog button.main").click()
    browser.until(lambda: "not one token" in browser.text("dialog .hint"))
    assert any("404" in each for each in browser.errors())  # the browser tells of the refusal itself
    browser.one("dialog input").clear()
    browser.one("dialog input").send_keys("Austin - Sacramento; likely@5")
    browser.one("dialog button.main").click()
    browser.until(lambda: "dallas-austin-sacramento" in browser.driver.current_url and browser.ready())
    assert "Austin - Sacramento" in browser.texts(".predictions .token")[0]
    browser.screenshot("other-targets.png")


@pytest.mark.browser
def test_a_file_carries_the_heads_of_its_strongest_edges(browser: Browser, traced: Graph, tmp_path: Path) -> None:
    page = write_html(traced, tmp_path / "page.html", attention=explain_attention(gw.load_model("smallworld"), traced))
    browser.open(page.as_uri())
    assert not browser.all("#query")
    open_heads(browser, traced)
    assert browser.requests() == []
