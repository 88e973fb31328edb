"""Circuits: how a model came to its answer on a prompt, as a graph of features.

The room explains; it changes nothing in a model, and draws nothing.
"""

from glassworks.circuits.asked import Direction, Feature, Likely, Logit
from glassworks.circuits.attention.attention import Attention, explain_attention
from glassworks.circuits.attention.explained import annotate, attention_values, edge_values, score_values
from glassworks.circuits.budget import Budget
from glassworks.circuits.checks.check import Check
from glassworks.circuits.circuit import Circuit, Group, cut, load_circuit, read_circuit, read_head, reply_graphs
from glassworks.circuits.graph import Graph, load_graph
from glassworks.circuits.many.aggregate import Aggregate, aggregate, load_aggregate
from glassworks.circuits.many.compare import Difference, Stability, compare, stability
from glassworks.circuits.many.predict import Prediction, predict
from glassworks.circuits.many.virtual import Inputs, inputs_of
from glassworks.circuits.nodes import KINDS, Node, Nodes
from glassworks.circuits.outcomes import Continuation, Outcome
from glassworks.circuits.reading.minimal import Minimal
from glassworks.circuits.reading.paths import Path, Step
from glassworks.circuits.scores import Scores
from glassworks.circuits.supernodes import Supernode
from glassworks.circuits.trace import trace, traces
from glassworks.circuits.wording import parse, read_direction

__all__ = [
    "KINDS",
    "Aggregate",
    "Attention",
    "Budget",
    "Check",
    "Circuit",
    "Continuation",
    "Difference",
    "Direction",
    "Feature",
    "Graph",
    "Group",
    "Inputs",
    "Likely",
    "Logit",
    "Minimal",
    "Node",
    "Nodes",
    "Outcome",
    "Path",
    "Prediction",
    "Scores",
    "Stability",
    "Step",
    "Supernode",
    "aggregate",
    "annotate",
    "attention_values",
    "compare",
    "cut",
    "edge_values",
    "explain_attention",
    "inputs_of",
    "load_aggregate",
    "load_circuit",
    "load_graph",
    "parse",
    "predict",
    "read_circuit",
    "read_direction",
    "read_head",
    "reply_graphs",
    "score_values",
    "stability",
    "trace",
    "traces",
]
