"""Pages: the explorer's HTML, with its modules by address when served and inside of it when it is one file.

The browser resolves bare module names by an import map: to `/static/...` when served, to `data:` addresses in the
one-file page, which reaches for nothing outside of itself.
"""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path

from glassworks.circuits import Attention, Graph, attention_values
from glassworks.coders import Scope
from glassworks.errors import NotFound
from glassworks.server.document import graph_document
from glassworks.server.evidence import details_of

WEB = Path(__file__).parent / "web"
LIBRARIES = WEB / "lib"
ONE_FILE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
BOOT = '<script type="module">import "glassworks/main";</script>'


@cache
def web_files() -> dict[str, str]:
    """All files that pages need: path below `web/` -> text.

    Raises:
        NotFound: the libraries are missing, so the package was not built.
    """
    if not any(LIBRARIES.glob("*.js")):
        raise NotFound(
            f"The explorer's libraries are missing from {LIBRARIES}; install Glassworks again, "
            "or run `python hatch_build.py` in its source folder."
        )
    files = [file for file in sorted(WEB.rglob("*")) if file.suffix in (".js", ".css")]
    return {file.relative_to(WEB).as_posix(): file.read_text(encoding="utf-8") for file in files}


def modules() -> dict[str, str]:
    """Bare name of every module -> its file: `d3-zoom` for a library, `glassworks/model` for our own."""
    paths = {}
    for path in web_files():
        name, _, ending = path.rpartition(".")
        if ending == "js":
            paths[name.removeprefix("lib/") if name.startswith("lib/") else f"glassworks/{name}"] = path
    return paths


def _template(head: str, body: str = "") -> str:
    text = (WEB / "index.html").read_text(encoding="utf-8")
    return text.replace("<!-- head -->", head).replace("<!-- body -->\n", body)


def _import_map(addresses: dict[str, str]) -> str:
    return json.dumps({"imports": addresses}, separators=(",", ":"))


@cache
def served() -> tuple[str, str]:
    """The page as the server gives it, and the content policy that goes with it."""
    addresses = _import_map({name: f"/static/{path}" for name, path in modules().items()})
    head = (
        '<link rel="stylesheet" href="/static/explorer.css">\n'
        '<link rel="icon" href="data:,">\n'
        f'<script type="importmap">{addresses}</script>\n'
        '<script type="module" src="/static/main.js"></script>'
    )
    digest = base64.b64encode(hashlib.sha256(addresses.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    return _template(head), policy


def standalone(
    graph: Graph, name: str = "graph", scope: Scope | str | None = None, attention: Attention | None = None
) -> str:
    """One HTML text that shows a graph without a server and without a network.

    Args:
        graph: what it shows.
        name: what copies of the page are called.
        scope: where the features' evidence comes from; by default the graph's own scope, and none where that is
            not on this machine.
        attention: explains the heads of the strongest edges, where the page is to show them.

    Raises:
        NotFound: a scope was named and does not exist.
    """
    document = graph_document(graph, name)
    try:
        document["details"] = details_of(graph, scope).of_graph(graph)
    except NotFound:
        if scope is not None:
            raise
        document["details"] = {}  # a graph without evidence is still worth keeping
    if attention is not None:
        document["attention"] = attention_values(attention)
    files, addresses = web_files(), {}
    for module, path in modules().items():
        encoded = base64.b64encode(files[path].encode()).decode()
        addresses[module] = f"data:text/javascript;charset=utf-8;base64,{encoded}"
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{ONE_FILE_POLICY}">\n'
        f"<style>\n{files['explorer.css']}</style>\n"
        f'<script type="importmap">{_import_map(addresses)}</script>\n{BOOT}'
    )
    # A label may hold "</script>": the document's text must not contain "<".
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return _template(head, f'<script type="application/json" id="document">{text}</script>\n')
