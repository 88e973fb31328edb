"""The application: the explorer's pages, each with a JSON twin; groups can be changed, and graphs added.

/                                    the newest graph           twin: /api/graphs
/graph/NAME                          a graph                    twin: /api/graph/NAME
/graph/NAME.html                     the same as one file
/api/graph/NAME/feature/CODER/INDEX  evidence of a feature
/api/graph/NAME/groups               GET and PUT: pins and named groups, saved with the graph
/api/graph/NAME/edge/SOURCE/TARGET   the heads that an edge runs through
/api/graph/NAME/head/L/H/QUERY/KEY   why head H of layer L looks from one position to another
/api/graph/NAME/trace                POST: a graph of other targets of the same prompt
/api/graph/NAME/edit                 POST: what edits of the model do to the prompt
/static/...                          the page's modules and style
"""

import json
import socket
import threading
import time
import webbrowser
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from glassworks.circuits import Attention, edge_values, score_values
from glassworks.coders import Scope
from glassworks.errors import BadArtefact, BadInput, GlassworksError, NotFound
from glassworks.server import page
from glassworks.server.evidence import details_of
from glassworks.server.graphs import GraphFolder
from glassworks.server.guard import LOOPBACK, Guard
from glassworks.server.sessions import Sessions, slug

MOST_BYTES = 4_000_000
TYPES = {"js": "text/javascript", "css": "text/css"}


def create_app(graphs: str | Path, *, scope: Scope | str | None = None, hosts: tuple[str, ...] = ()) -> Starlette:
    """Make the application.

    Args:
        graphs: a graph artefact, a graph JSON file, or a folder that holds such.
        scope: where features' evidence comes from; by default the scope that each graph names.
        hosts: host names to answer to besides those of this machine.

    Raises:
        NotFound: there is no such folder, or the explorer was not built.
    """
    page.web_files()
    explorer = _Explorer(GraphFolder(Path(graphs)), scope)
    routes = [
        Route("/", explorer.page),
        Route("/graph/{name}.html", explorer.one_file),
        Route("/graph/{name}", explorer.page),
        Route("/api/graphs", explorer.graphs),
        Route("/api/graph/{name}", explorer.document),
        Route("/api/graph/{name}/groups", explorer.groups, methods=["GET", "PUT"]),
        Route("/api/graph/{name}/feature/{coder}/{index:int}", explorer.feature),
        Route("/api/graph/{name}/edge/{source:int}/{target:int}", explorer.edge),
        Route("/api/graph/{name}/head/{layer:int}/{head:int}/{query:int}/{key:int}", explorer.head),
        Route("/api/graph/{name}/trace", explorer.trace, methods=["POST"]),
        Route("/api/graph/{name}/edit", explorer.edit, methods=["POST"]),
        Route("/static/{path:path}", explorer.static),
    ]
    middleware = [Middleware(Guard, hosts=(*LOOPBACK, *hosts)), Middleware(GZipMiddleware, minimum_size=2_000)]
    handlers: dict[Any, Any] = {GlassworksError: _refuse, HTTPException: _refuse_http}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


def serve(
    graphs: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    scope: Scope | str | None = None,
    open_browser: bool = False,
) -> None:
    """Serve the explorer until it is interrupted.

    Args:
        graphs: a graph artefact, a graph JSON file, or a folder that holds such.
        host: address to listen at; only this machine can reach the default.
        port: port to listen at, 0 for any free one.
        scope: where features' evidence comes from; by default the scope that each graph names.
        open_browser: open the page too.

    Raises:
        NotFound: there is no such folder, or the explorer was not built.
        BadInput: the address or port cannot be used.
    """
    app = create_app(graphs, scope=scope, hosts=(host,))
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise BadInput(f"Nothing can listen at {host}:{port} ({error}); choose another port, or 0 for any.") from error
    address = f"http://{host}:{listener.getsockname()[1]}/"
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))

    def open_when_ready() -> None:
        while not server.started:
            time.sleep(0.05)
        webbrowser.open(address)

    print(f"Glassworks at {address}  (Ctrl+C ends it)", flush=True)
    if open_browser:
        threading.Thread(target=open_when_ready, daemon=True).start()
    with listener, suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


class _Explorer:
    """The endpoints; those that read files are plain functions, which run beside the event loop."""

    def __init__(self, graphs: GraphFolder, scope: Scope | str | None) -> None:
        self.folder, self.scope, self.sessions = graphs, scope, Sessions(scope)
        self.details = lru_cache(maxsize=2)(lambda name: details_of(graphs.graph(name), scope))
        self.attentions = lru_cache(maxsize=2)(lambda name, state: self.sessions.attention(graphs.graph(name)))

    def page(self, request: Request) -> Response:
        name = request.path_params.get("name")
        status = 200 if name is None or name in self.folder.places() else 404
        text, policy = page.served()
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
        return HTMLResponse(text, status_code=status, headers=headers)

    def one_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        text = page.standalone(self.folder.graph(name), name, self.scope)
        return HTMLResponse(text, headers={"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}.html"})

    def graphs(self, request: Request) -> Response:
        return _answer({"graphs": self.folder.entries()})

    def document(self, request: Request) -> Response:
        return _answer(self.folder.document(request.path_params["name"]))

    def feature(self, request: Request) -> Response:
        path = request.path_params
        self.folder.place(path["name"])  # a graph that is gone is refused, though its details may be cached
        return _answer(self.details(path["name"]).of(path["coder"], path["index"]))

    async def groups(self, request: Request) -> Response:
        name = request.path_params["name"]
        if request.method != "PUT":
            document = await run_in_threadpool(self.folder.document, name)
            return _answer({key: document[key] for key in ("supernodes", "pinned")})
        return _answer(await run_in_threadpool(self.folder.save_groups, name, await _value(request)))

    def edge(self, request: Request) -> Response:
        path = request.path_params
        with self.sessions.lock:
            return _answer(edge_values(self._attention(path["name"]).edge(path["source"], path["target"])))

    def head(self, request: Request) -> Response:
        path = request.path_params
        with self.sessions.lock:
            attention = self._attention(path["name"])
            score = attention.score(*(path[name] for name in ("layer", "head", "query", "key")))
            return _answer(score_values(attention, score))

    def _attention(self, name: str) -> Attention:
        return self.attentions(name, self.folder.state(name))

    async def trace(self, request: Request) -> Response:
        name, value = request.path_params["name"], await _value(request)

        def add() -> dict[str, Any]:
            made = self.sessions.trace(self.folder.graph(name), value, self.folder.direction)
            return {"name": self.folder.add(slug(name, value["targets"]), made)}

        return _answer(await run_in_threadpool(add))

    async def edit(self, request: Request) -> Response:
        name, value = request.path_params["name"], await _value(request)
        return _answer(await run_in_threadpool(lambda: self.sessions.edit(self.folder.graph(name), value)))

    def static(self, request: Request) -> Response:
        path = request.path_params["path"]
        text = page.web_files().get(path)
        if text is None:
            raise HTTPException(404, f"There is no file {path!r} here.")
        media_type = TYPES[path.rpartition(".")[2]]
        return Response(text, media_type=media_type, headers={"Cache-Control": "no-cache"})


async def _value(request: Request) -> Any:
    """The JSON value that a request brings."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"The request is longer than {MOST_BYTES} bytes.")
    try:
        return json.loads(body)
    except ValueError as error:
        raise HTTPException(400, f"The request is not JSON ({error}).") from error


def _answer(value: Any) -> Response:
    return JSONResponse(value, headers={"Cache-Control": "no-store"})


def _refuse(request: Request, error: GlassworksError) -> Response:
    status = 404 if isinstance(error, NotFound) else 500 if isinstance(error, BadArtefact) else 400
    return JSONResponse({"error": str(error)}, status_code=status)


def _refuse_http(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
