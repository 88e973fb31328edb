"""Studies: questions asked of a model, answered with numbers.

`world` is what the embedded default is for: its ground truth, put to a model, a scope or an edit. `agreement`
compares coders with numbers that others measured.
"""

from glassworks.studies.agreement import verify
from glassworks.studies.world import Cities, Plan, Swaps, accuracy, build, check, patch_flips

__all__ = ["Cities", "Plan", "Swaps", "accuracy", "build", "check", "patch_flips", "verify"]
