"""The explorer: graphs in the browser, from this machine only, and as one file that needs no server.

serve("graphs/")                    run it
create_app("graphs/")               the application, for another server or a test
standalone(graph)                   the page of one graph as one HTML text
"""

from glassworks.server.app import create_app, serve
from glassworks.server.page import standalone

__all__ = ["create_app", "serve", "standalone"]
