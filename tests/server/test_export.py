"""The one-file page holds everything and reaches for nothing."""

import json
import re
from pathlib import Path

import pytest

from glassworks import notebook
from glassworks.circuits import Graph
from glassworks.errors import BadInput, NotFound

from .conftest import make_graph, make_scope


@pytest.fixture
def page(tmp_path: Path) -> str:
    return notebook.html(make_graph(make_scope(tmp_path)))


def test_it_reaches_for_nothing(page: str) -> None:
    outside = re.findall(r"""(?:src|href|action)\s*=\s*["']?([^"'\s>]+)""", page)
    assert [each for each in outside if not each.startswith("data:")] == []
    assert "@import" not in page
    assert "url(" not in page.partition("<style>")[2].partition("</style>")[0]
    imports = json.loads(page.partition('<script type="importmap">')[2].partition("</script>")[0])["imports"]
    assert all(each.startswith("data:text/javascript;") for each in imports.values())
    assert "default-src 'none'" in page


def test_no_text_of_a_model_can_end_the_script(page: str) -> None:
    inside = page.partition('id="document">')[2].partition("</script>")[0]
    document = json.loads(inside)
    assert "</script>" in [each["token"] for each in document["predictions"]]


def test_it_carries_the_evidence(page: str) -> None:
    document = json.loads(page.partition('id="document">')[2].partition("</script>")[0])
    assert document["details"]["mlp_in.0/2"]["top_tokens"] == [{"token": " cat", "weight": 2.0}]
    keys = {f"{n['coder']}/{n['index']}" for n in document["nodes"] if n["kind"] == "feature"}
    assert set(document["details"]) == keys


def test_a_scope_that_is_not_here_costs_only_the_evidence(toy_graph: Graph) -> None:
    document = notebook.html(toy_graph).partition('id="document">')[2].partition("</script>")[0]
    assert json.loads(document)["details"] == {}
    with pytest.raises(NotFound):
        notebook.html(toy_graph, scope="nowhere-at-all")


def test_a_notebook_shows_it_in_a_frame(toy_graph: Graph) -> None:
    view = notebook.show(toy_graph, height=500)
    frame = view._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    assert "allow-same-origin" not in frame
    assert "height: 500px" in frame
    assert "the cat sat on the" in repr(view)


def test_a_file_is_written(toy_graph: Graph, tmp_path: Path) -> None:
    file = notebook.write_html(toy_graph, tmp_path / "new" / "page.html")
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(BadInput, match="cannot be written"):
        notebook.write_html(toy_graph, tmp_path)
