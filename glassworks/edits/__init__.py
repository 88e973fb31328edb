"""Edits: changes of a model while it runs, as values that `model.edit(...)` takes."""

from glassworks.edits.features import FeatureEdit, FeatureRef, Supernode, ablate, scale_features, set_features
from glassworks.edits.vector import AddVector, add_vector

__all__ = [
    "AddVector",
    "FeatureEdit",
    "FeatureRef",
    "Supernode",
    "ablate",
    "add_vector",
    "scale_features",
    "set_features",
]
