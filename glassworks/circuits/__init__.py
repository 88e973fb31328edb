"""Circuits: how a model came to its answer on a prompt, as a graph of features.

The room explains; it changes nothing in a model, and draws nothing.
"""

from glassworks.circuits.graph import Graph, load_graph
from glassworks.circuits.nodes import KINDS, Node, Nodes
from glassworks.circuits.outcomes import Outcome
from glassworks.circuits.paths import Path, Step
from glassworks.circuits.scores import Scores
from glassworks.circuits.supernodes import Supernode
from glassworks.circuits.trace import trace

__all__ = [
    "KINDS",
    "Graph",
    "Node",
    "Nodes",
    "Outcome",
    "Path",
    "Scores",
    "Step",
    "Supernode",
    "load_graph",
    "trace",
]
