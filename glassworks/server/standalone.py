"""One graph as one HTML text: its document, the evidence of its features, and the page around them."""

from glassworks.circuits import Attention, Graph, attention_values
from glassworks.coders import Scope
from glassworks.errors import NotFound
from glassworks.server.document import graph_document
from glassworks.server.evidence import all_details, witness_of
from glassworks.server.page import one_file


def standalone(
    graph: Graph, name: str = "graph", scope: Scope | str | None = None, attention: Attention | None = None
) -> str:
    """Make the page of one graph, which needs no server and no network.

    Args:
        graph: what it shows.
        name: what copies of the page are called.
        scope: where the features' evidence comes from; by default the graph's own scope, and none where that is
            not on this machine.
        attention: explains the heads of the strongest edges, where they shall go with the page.

    Raises:
        NotFound: a scope was named and does not exist.
    """
    document = graph_document(graph, name)
    try:
        document["details"] = all_details(graph, witness_of(graph, scope))
    except NotFound:
        if scope is not None:
            raise
        document["details"] = {}  # a graph without evidence is still worth keeping
    if attention is not None:
        document["attention"] = attention_values(attention)
    return one_file(document)
