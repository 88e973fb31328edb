"""What protects a server on this machine from other pages in the same browser.

A page from elsewhere can make the browser send requests here, or rebind its own name to this address. So the Host
header must be a name of this machine, and a request that changes something must come from our own page.
"""

from typing import final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
READING = ("GET", "HEAD")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@final
class Guard:
    """Refuses requests that do not come from this machine's own pages.

    Args:
        app: what it protects.
        hosts: names under which the server may be addressed.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(scope["method"], Headers(scope=scope))
        if refusal:
            await JSONResponse({"error": refusal}, status_code=403, headers=HEADERS)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def refusal(self, method: str, headers: Headers) -> str | None:
        """Why a request is refused, or None."""
        host = headers.get("host", "")
        if host_name(host) not in self.hosts:
            return f"This server answers to {', '.join(self.hosts)}, not to the host {host!r}."
        if method in READING:
            return None
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return f"Only this server's own pages may change something; the request came from {origin}."
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "Only this server's own pages may change something; the request came from another site."
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return "What changes something must be sent as application/json."
        return None


def host_name(host: str) -> str:
    """The name in a Host header, without its port, in lower case."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
