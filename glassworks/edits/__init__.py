"""Edits: changes of a model while it runs, as values that `model.edit(...)` takes."""

from glassworks.edits.contrast import Contrast, contrast
from glassworks.edits.edit import Edit
from glassworks.edits.files import difference, load_edits, read_edit, save_edits
from glassworks.edits.make import (
    ablate,
    add_features,
    add_vector,
    clamp,
    patch,
    project_out,
    scale_features,
    set_features,
)
from glassworks.edits.operations import EFFECTS, OPERATIONS, UNITS
from glassworks.edits.outcome import Choice, Dose, OffTarget, Outcome, divergence, doses, off_target, outcome
from glassworks.edits.patching import (
    METHODS,
    WAYS,
    Agreement,
    Cell,
    Edges,
    Metric,
    Pair,
    Sweep,
    Way,
    agreement,
    approximate,
    cells,
    edges,
    exact_edges,
    sweep,
)
from glassworks.edits.reference import Reference
from glassworks.edits.refs import FeatureRef, Supernode
from glassworks.edits.reports import doses_page, outcome_page, sweeps_page
from glassworks.edits.skips import LiveSkips, live_skips
from glassworks.edits.source import Source
from glassworks.edits.targets import Direction, Features, Heads, Neurons, Target, Whole
from glassworks.edits.where import Gate, Span, Where

__all__ = [
    "EFFECTS",
    "METHODS",
    "OPERATIONS",
    "UNITS",
    "WAYS",
    "Agreement",
    "Cell",
    "Choice",
    "Contrast",
    "Direction",
    "Dose",
    "Edges",
    "Edit",
    "FeatureRef",
    "Features",
    "Gate",
    "Heads",
    "LiveSkips",
    "Metric",
    "Neurons",
    "OffTarget",
    "Outcome",
    "Pair",
    "Reference",
    "Source",
    "Span",
    "Supernode",
    "Sweep",
    "Target",
    "Way",
    "Where",
    "Whole",
    "ablate",
    "add_features",
    "add_vector",
    "agreement",
    "approximate",
    "cells",
    "clamp",
    "contrast",
    "difference",
    "divergence",
    "doses",
    "doses_page",
    "edges",
    "exact_edges",
    "live_skips",
    "load_edits",
    "off_target",
    "outcome",
    "outcome_page",
    "patch",
    "project_out",
    "read_edit",
    "save_edits",
    "scale_features",
    "set_features",
    "sweep",
    "sweeps_page",
]
