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

This module must not know how a graph is stored.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from glassworks.coders import Scope
from glassworks.errors import BadArtefact, GlassworksError, NotFound
from glassworks.server import page
from glassworks.server.evidence import Witness, witness_of
from glassworks.server.guard import LOOPBACK, Guard
from glassworks.server.library import Library
from glassworks.server.standalone import standalone
from glassworks.server.workshop import Workshop, slug

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
    explorer = _Explorer(Library(Path(graphs)), scope)
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


class _Explorer:
    """The endpoints; those that read files are plain functions, which run beside the event loop."""

    def __init__(self, library: Library, scope: Scope | str | None) -> None:
        self.library, self.scope, self.workshop = library, scope, Workshop(scope)
        self.witness = lru_cache(maxsize=2)(lambda name: witness_of(library.graph(name), scope))

    def page(self, request: Request) -> Response:
        name = request.path_params.get("name")
        status = 200 if name is None or name in self.library.places() else 404
        text, policy = page.served()
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
        return HTMLResponse(text, status_code=status, headers=headers)

    def one_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        text = standalone(self.library.graph(name), name, self.scope)
        return HTMLResponse(text, headers={"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}.html"})

    def graphs(self, request: Request) -> Response:
        return _answer({"graphs": self.library.entries()})

    def document(self, request: Request) -> Response:
        return _answer(self.library.document(request.path_params["name"]))

    def feature(self, request: Request) -> Response:
        witness = self._witness(request.path_params["name"])
        return _answer(witness.details(request.path_params["coder"], request.path_params["index"]))

    async def groups(self, request: Request) -> Response:
        name = request.path_params["name"]
        if request.method != "PUT":
            document = await run_in_threadpool(self.library.document, name)
            return _answer({key: document[key] for key in ("supernodes", "pinned")})
        return _answer(await run_in_threadpool(self.library.save_groups, name, await _value(request)))

    def edge(self, request: Request) -> Response:
        name, ends = request.path_params["name"], request.path_params
        key, graph = (name, self.library.state(name)), lambda: self.library.graph(name)
        return _answer(self.workshop.edge(key, graph, ends["source"], ends["target"]))

    def head(self, request: Request) -> Response:
        name, asked = request.path_params["name"], request.path_params
        key, graph = (name, self.library.state(name)), lambda: self.library.graph(name)
        where = (asked["layer"], asked["head"], asked["query"], asked["key"])
        return _answer(self.workshop.head(key, graph, where))

    async def trace(self, request: Request) -> Response:
        name, value = request.path_params["name"], await _value(request)
        return _answer(await run_in_threadpool(self._trace, name, value))

    def _trace(self, name: str, value: Any) -> dict[str, Any]:
        made = self.workshop.trace(self.library.graph(name), value, self.library.direction)
        return {"name": self.library.add(slug(name, value["targets"]), made)}

    async def edit(self, request: Request) -> Response:
        name, value = request.path_params["name"], await _value(request)
        return _answer(await run_in_threadpool(lambda: self.workshop.edit(self.library.graph(name), value)))

    def static(self, request: Request) -> Response:
        path = request.path_params["path"]
        text = page.web_files().get(path)
        if text is None:
            raise HTTPException(404, f"There is no file {path!r} here.")
        media_type = TYPES[path.rpartition(".")[2]]
        return Response(text, media_type=media_type, headers={"Cache-Control": "no-cache"})

    def _witness(self, name: str) -> Witness:
        self.library.place(name)
        return self.witness(name)


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
