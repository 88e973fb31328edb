"""Graphs in a notebook and as files: the explorer's page with everything inside of it.

    show(graph)                       in a notebook cell
    write_html(graph, "graph.html")   one file that opens anywhere, without a server or a network

This module must not know how the page works; it only hands it over.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import final

from glassworks.circuits import Attention, Graph
from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.server import standalone


@final
@dataclass(frozen=True)
class View:
    """A graph as a notebook shows it.

    Attributes:
        page: the whole page as HTML text.
        title: what it shows.
        height: of the frame, in pixels.
    """

    page: str
    title: str
    height: int

    def __repr__(self) -> str:
        return f"View({self.title!r}: a page of {len(self.page):,} characters)"

    def _repr_html_(self) -> str:
        """The page in a frame of its own, which can reach neither the notebook nor the network."""
        return (
            f'<iframe srcdoc="{escape(self.page)}" title="{escape(self.title)}" loading="lazy" '
            'sandbox="allow-scripts allow-downloads allow-modals allow-forms" '
            f'style="width: 100%; height: {self.height}px; border: 0; border-radius: 12px"></iframe>'
        )


def show(
    graph: Graph, *, scope: Scope | str | None = None, attention: Attention | None = None, height: int = 860
) -> View:
    """Show a graph in a notebook.

    Args:
        graph: what to show.
        scope: where the features' evidence comes from; by default the graph's own scope.
        attention: from `explain_attention`: shows the heads of the strongest edges too.
        height: of the frame, in pixels.

    Returns:
        What the notebook draws; groups made there last as long as the page.
    """
    return View(html(graph, scope=scope, attention=attention), graph.prompt, height)


def html(
    graph: Graph, *, scope: Scope | str | None = None, attention: Attention | None = None, name: str = "graph"
) -> str:
    """Make the page of a graph, with everything that it needs inside of it.

    Args:
        graph: what it shows.
        scope: where the features' evidence comes from; by default the graph's own scope, and none where that is
            not on this machine.
        attention: see `show`.
        name: what copies of the page are called.

    Returns:
        HTML text that reaches for nothing outside of itself.
    """
    return standalone(graph, name, scope, attention)


def write_html(
    graph: Graph, path: str | Path, *, scope: Scope | str | None = None, attention: Attention | None = None
) -> Path:
    """Write the page of a graph as one file, which opens in a browser by itself.

    Args:
        graph: what it shows.
        path: the file, which is replaced where it exists.
        scope: where the features' evidence comes from; by default the graph's own scope.
        attention: see `show`.

    Returns:
        The file.

    Raises:
        BadInput: the file cannot be written.
    """
    file = Path(path)
    page = html(graph, scope=scope, attention=attention, name=file.stem)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"The page {file} cannot be written ({error}); choose another place.") from error
    return file
