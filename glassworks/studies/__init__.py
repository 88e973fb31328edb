"""Studies: questions about a model, answered with numbers.

`world` and `knowledge` are what the embedded default is for: its ground truth, put to a model, a scope or an edit.
"""

from glassworks.studies.knowledge import interview, measure
from glassworks.studies.world import Cities, Swaps, accuracy, check, patch_flips

__all__ = ["Cities", "Swaps", "accuracy", "check", "interview", "measure", "patch_flips"]
