"""Running the application on this machine. This module must not know what it serves."""

import socket
import threading
import time
import webbrowser
from contextlib import suppress
from pathlib import Path

import uvicorn

from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.server.app import create_app


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
    print(f"Glassworks at {address}  (Ctrl+C ends it)", flush=True)
    if open_browser:
        threading.Thread(target=_open_when_ready, args=(server, address), daemon=True).start()
    with listener, suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def _open_when_ready(server: uvicorn.Server, address: str) -> None:
    while not server.started:
        time.sleep(0.05)
    webbrowser.open(address)
