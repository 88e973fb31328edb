"""Edits: changes of a model while it runs, as values that `model.edit(...)` takes."""

from glassworks.edits.features import FeatureEdit, FeatureRef, Supernode, ablate, scale_features, set_features
from glassworks.edits.skips import LiveSkips, live_skips
from glassworks.edits.vector import AddVector, add_vector

__all__ = [
    "AddVector",
    "FeatureEdit",
    "FeatureRef",
    "LiveSkips",
    "Supernode",
    "ablate",
    "add_vector",
    "live_skips",
    "scale_features",
    "set_features",
]
