"""Circuits: how a model came to its answer on a prompt, as a graph of features.

The room explains; it changes nothing in a model, and draws nothing.
"""

from glassworks.circuits.attention import (
    Attention,
    annotate,
    attention_text,
    attention_values,
    edge_values,
    explain_attention,
    score_values,
)
from glassworks.circuits.check import Check
from glassworks.circuits.circuit import Circuit, Group, cut, load_circuit, read_circuit, read_head, reply_graphs
from glassworks.circuits.engine.rows import Budget
from glassworks.circuits.graph import Graph, load_graph
from glassworks.circuits.many import Aggregate, Difference, aggregate, compare, load_aggregate
from glassworks.circuits.minimal import Minimal
from glassworks.circuits.nodes import KINDS, Node, Nodes, Origin, Supernode
from glassworks.circuits.predict import Prediction, predict
from glassworks.circuits.reading import Path, Step
from glassworks.circuits.scores import Scores
from glassworks.circuits.targets import Continuation, Direction, Feature, Likely, Logit, Outcome, parse, read_direction
from glassworks.circuits.trace import trace, traces
from glassworks.circuits.weights import Inputs, inputs_of

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
    "Origin",
    "Outcome",
    "Path",
    "Prediction",
    "Scores",
    "Step",
    "Supernode",
    "aggregate",
    "annotate",
    "attention_text",
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
    "trace",
    "traces",
]
