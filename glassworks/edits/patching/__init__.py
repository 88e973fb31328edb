"""Patching: carry values of one prompt's run into another's, exactly and by approximation."""

from glassworks.edits.patching.agreement import Agreement, agreement
from glassworks.edits.patching.cells import Cell, cells
from glassworks.edits.patching.edges import Edges, edges, exact_edges
from glassworks.edits.patching.exact import Sweep, sweep
from glassworks.edits.patching.gradients import METHODS, Method, approximate
from glassworks.edits.patching.pair import WAYS, Metric, Pair, Way

__all__ = [
    "METHODS",
    "WAYS",
    "Agreement",
    "Cell",
    "Edges",
    "Method",
    "Metric",
    "Pair",
    "Sweep",
    "Way",
    "agreement",
    "approximate",
    "cells",
    "edges",
    "exact_edges",
    "sweep",
]
