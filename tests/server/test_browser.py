"""The explorer in a real browser: served, as a file, and in a notebook's frame."""

import json
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from glassworks import notebook
from glassworks.circuits import Graph, load_graph

from .browser import Browser
from .conftest import make_graph, make_scope

pytestmark = pytest.mark.browser


def keys(browser: Browser, *pressed: str) -> None:
    ActionChains(browser.driver).send_keys(*pressed).perform()


def focused(browser: Browser) -> str:
    return browser.js("return document.activeElement.dataset.node ?? ''")


def focus(browser: Browser, node: int) -> None:
    browser.js("document.querySelector(`[data-node='${arguments[0]}']`).focus()", node)


def strongest_feature(graph: Graph) -> int:
    """A feature that the default pruning keeps."""
    return int(graph.influence.masked_fill(~graph.nodes.of("feature"), -1).argmax())


def test_the_page_begins_with_a_summary(browser: Browser, address: str, toy_graph: Graph) -> None:
    browser.open(address)
    assert browser.driver.title == "the cat sat on the · Glassworks"
    assert browser.text(".predictions .first .token") == "mat"
    assert browser.text(".predictions .first .value") == "70%"
    assert f"{toy_graph.replacement:.2f}" in browser.text(".scores")
    small = toy_graph.prune()
    assert browser.shown() == len(small.nodes)
    assert str(len(small.nodes)) in browser.text(".scores")
    assert browser.texts(".axes .token") == ["<bos>", "the", "cat", "sat", "on", "the"]
    paths = browser.texts(".path")
    assert len(paths) == min(6, len(toy_graph.paths(6)))
    browser.screenshot("explorer-toy.png")


def test_pruning_is_that_of_the_package(browser: Browser, address: str, toy_graph: Graph) -> None:
    browser.open(address)
    code = """
      const { prune } = await import("glassworks/prune");
      const { indexGraph } = await import("glassworks/model");
      const graph = indexGraph(await (await fetch("/api/graph/toy")).json());
      return values.map(([node, edge]) => {
        const kept = prune(graph, node, edge);
        const ends = [...kept.links.keys()].filter((link) => kept.links[link]);
        return [
          [...kept.nodes.keys()].filter((place) => kept.nodes[place]),
          ends.map((link) => `${graph.links.target[link]}<${graph.links.source[link]}`).sort(),
        ];
      });
    """
    thresholds = [(0.8, 0.98), (0.5, 0.9), (0.95, 0.5), (0.3, 0.99), (1.0, 1.0)]
    for (node, edge), (nodes, links) in zip(thresholds, browser.run_async(code, *thresholds), strict=True):
        part = toy_graph.prune(node, edge)
        numbers = in_whole(toy_graph, part)
        assert nodes == numbers
        rows, columns = part.matrix.nonzero(as_tuple=True)
        ends = zip(part.rows[rows].tolist(), columns.tolist(), strict=True)
        assert links == sorted(f"{numbers[target]}<{numbers[source]}" for target, source in ends)


def in_whole(whole: Graph, part: Graph) -> list[int]:
    """Numbers in the whole graph of a part's nodes."""
    key = [(node.kind, node.layer, node.position, node.index) for node in whole.nodes]
    return [key.index((node.kind, node.layer, node.position, node.index)) for node in part.nodes]


def test_a_node_shows_its_evidence_and_its_edges_to_walk(browser: Browser, address: str, toy_graph: Graph) -> None:
    browser.open(address)
    node = strongest_feature(toy_graph)
    browser.one(f"[data-node='{node}']").click()
    browser.until(lambda: browser.all(".details .edge-list"))
    label = toy_graph.nodes[node].label.replace("->", "→")
    assert label in browser.text(".node-head")
    if toy_graph.nodes[node].layer < 2:
        browser.until(lambda: browser.all(".examples mark"))
        assert "Fires on" in browser.text(".evidence")
    rows = browser.all(".incoming .edge-list button")
    weights = [abs(float(each.replace("−", "-"))) for each in browser.texts(".incoming .pair span")]
    assert weights == sorted(weights, reverse=True)
    assert len(rows) > 1
    rows[0].click()
    browser.until(lambda: label not in browser.text(".node-head"))
    browser.one(".actions button").click()
    browser.until(lambda: label in browser.text(".node-head"))


def test_sliders_prune(browser: Browser, address: str) -> None:
    browser.open(address)
    before = browser.shown()
    set_range = """
      const input = document.getElementById(arguments[0]);
      input.value = arguments[1];
      input.dispatchEvent(new Event("input"));
    """
    browser.js(set_range, "node-threshold", 0.4)
    browser.until(lambda: browser.shown() < before)
    few = browser.shown()
    browser.js(set_range, "edge-threshold", 0.5)
    browser.until(lambda: browser.shown() <= few)
    browser.js(set_range, "node-threshold", 1)
    browser.js(set_range, "edge-threshold", 1)
    browser.until(lambda: browser.shown() > before)


def test_keyboard_moves_selects_pins_and_groups(browser: Browser, address: str, graphs: Path) -> None:
    browser.open(address)
    graph = load_graph(graphs / "toy")
    stop = browser.one(".node[tabindex='0']")
    assert "mat" in stop.get_attribute("aria-label")
    assert len(browser.all(".node[tabindex='0']")) == 1
    focus(browser, int(stop.get_attribute("data-node")))
    keys(browser, Keys.ARROW_LEFT)
    assert graph.nodes[int(focused(browser))].label == " rug"
    keys(browser, Keys.ARROW_DOWN)
    first = int(focused(browser))
    assert graph.nodes[first].layer == 2
    keys(browser, Keys.ENTER)
    browser.until(lambda: browser.all(".node.selected"))
    assert browser.one(".node.selected").get_attribute("data-node") == str(first)
    keys(browser, "p")
    browser.until(lambda: load_graph(graphs / "toy").pinned == [first])
    keys(browser, Keys.SHIFT + Keys.ARROW_DOWN + Keys.NULL)
    second = int(focused(browser))
    assert graph.nodes[second].layer < 2
    keys(browser, Keys.SPACE)
    keys(browser, "g")
    browser.until(lambda: browser.all("dialog[open]"))
    keys(browser, "felines", Keys.ENTER)
    browser.until(lambda: "felines" in load_graph(graphs / "toy").supernodes)
    assert set(load_graph(graphs / "toy").supernodes["felines"].nodes) == {first, second}
    assert focused(browser) == str(second)
    keys(browser, Keys.ESCAPE)
    browser.until(lambda: not browser.all(".node.selected"))
    browser.open(address)
    assert browser.one(".card .name").get_attribute("value") == "felines"
    assert len(browser.all(".node[data-group='0']")) == 2
    keys(browser, "/")
    keys(browser, "reads 1")
    browser.until(lambda: "shown" in browser.text(".search output"))
    keys(browser, Keys.ENTER)
    browser.until(lambda: "reads 1" in browser.text(".node-head"))


def test_an_empty_folder_says_what_to_do(browser: Browser, address: str, graphs: Path) -> None:
    (graphs / "toy").rename(graphs.parent / "toy")
    browser.driver.get(address)
    browser.until(lambda: browser.all(".refused"))
    assert "glassworks trace" in browser.text(".refused")


def test_groups_become_a_circuit(browser: Browser, address: str, graphs: Path) -> None:
    graph = load_graph(graphs / "toy")
    features = int(graph.nodes.of("feature").sum())
    share = (graph.matrix / graph.matrix.abs().sum(1, keepdim=True).clamp(min=1e-9))[:features, :features].abs()
    target, source = divmod(int(share.argmax()), features)
    beside = (source + 1) % features
    groups = [{"name": "low", "nodes": [str(source), str(beside)]}, {"name": "high", "nodes": [str(target)]}]
    put = """
      const headers = { "Content-Type": "application/json" };
      await fetch("/api/graph/toy/groups", { method: "PUT", headers, body: values[0] });
    """
    browser.open(address)
    browser.run_async(put, json.dumps({"pinned": [], "supernodes": groups}))
    browser.open(address)
    browser.one("#tab-circuit").click()
    names = browser.until(lambda: browser.texts(".unit text"))
    assert {"low ×2", "high", "mat 70%"} <= set(names)
    graph = load_graph(graphs / "toy")
    weight = graph.between(graph.supernodes["low"], graph.supernodes["high"])
    titles = browser.texts(".bond title")
    [shown] = [each for each in titles if each.startswith("low → high")]
    assert float(shown.partition(": ")[2].partition(",")[0].replace("−", "-")) == pytest.approx(weight, rel=0.05)
    browser.screenshot("explorer-circuit.png")
    browser.one(".unit.group").click()
    browser.until(lambda: browser.all(".node-head"))


def test_proposed_groups_can_be_taken_over(browser: Browser, address: str, toy_graph: Graph) -> None:
    browser.open(address)
    offers = browser.run_async("return (await (await fetch('/api/graph/toy')).json()).proposals")
    if not offers:
        assert not browser.all("#propose")
        return
    browser.one("#propose").click()
    browser.until(lambda: len(browser.all(".card .name")) == len(offers))


def test_dark_follows_the_system_until_the_user_chooses(browser: Browser, address: str) -> None:
    browser.prefer("dark")
    browser.open(address)
    background = "return getComputedStyle(document.body).backgroundColor"
    dark = browser.js(background)
    browser.screenshot("explorer-toy-dark.png")
    browser.one("#theme").click()
    assert browser.js(background) != dark
    browser.driver.refresh()
    browser.until(browser.ready)
    assert browser.js(background) != dark
    browser.js("localStorage.clear()")


def test_the_one_file_page_works_without_a_server(browser: Browser, tmp_path: Path) -> None:
    graph = make_graph(make_scope(tmp_path))
    file = notebook.write_html(graph, tmp_path / "page.html")
    browser.open(file.as_uri())
    node = strongest_feature(graph)
    browser.one(f"[data-node='{node}']").click()
    browser.until(lambda: browser.all(".incoming .edge-list button"))
    assert graph.nodes[node].layer == 2 or browser.all(".examples mark")
    focus(browser, node)
    keys(browser, "p")
    browser.until(lambda: browser.all(".groups .member"))
    browser.driver.refresh()
    browser.until(browser.ready)
    assert len(browser.all(".groups .member")) == 1
    copy = browser.run_async("""
      const blobs = [];
      URL.createObjectURL = (blob) => (blobs.push(blob), "data:,");
      HTMLAnchorElement.prototype.click = () => {};
      document.getElementById("export").click();
      return blobs[0].text();
    """)
    (tmp_path / "copy.html").write_text(copy, encoding="utf-8")
    browser.js("localStorage.clear()")
    browser.open((tmp_path / "copy.html").as_uri())
    assert len(browser.all(".groups .member")) == 1
    assert browser.requests() == []


def test_a_notebook_frame_works(browser: Browser, tmp_path: Path, toy_graph: Graph) -> None:
    cell = notebook.show(toy_graph)._repr_html_()
    (tmp_path / "cell.html").write_text(f"<!doctype html><meta charset='utf-8'>{cell}", encoding="utf-8")
    browser.driver.get((tmp_path / "cell.html").as_uri())
    browser.driver.switch_to.frame(0)
    browser.until(browser.ready)
    assert browser.shown() == len(toy_graph.prune().nodes)
    browser.driver.switch_to.default_content()
    assert browser.requests() == []


def test_a_large_graph_stays_usable(browser: Browser, tmp_path: Path, data: Path) -> None:
    file = data / "graphs" / "gemma-2-2b" / "bee-insect-plt.json"
    graph = Graph.from_json(json.loads(file.read_text()))
    browser.open(notebook.write_html(graph, tmp_path / "large.html").as_uri())
    assert browser.shown() > 500
    browser.screenshot("explorer-large.png")
    pointing = """
      const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
      for (const node of [...document.querySelectorAll(".node:not([hidden])")].slice(0, 40)) {
        node.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
        await frame();
        await frame();
      }
    """
    pruning = """
      const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
      const input = document.getElementById("node-threshold");
      for (const value of [0.3, 0.5, 0.7, 0.8]) {
        input.value = value;
        input.dispatchEvent(new Event("input"));
        await frame();
        await frame();
      }
    """
    point, prune = browser.cpu_seconds(pointing) / 40, browser.cpu_seconds(pruning) / 4
    print(f"pointing at a node {1000 * point:.0f} ms, a step of the slider {1000 * prune:.0f} ms")
    assert point < 0.15
    assert prune < 0.6
    browser.prefer("dark")
    browser.until(lambda: browser.js("return document.documentElement.dataset.theme") == "dark")
    browser.screenshot("explorer-large-dark.png")
