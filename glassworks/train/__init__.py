"""Train: one loop, objectives, and the recipe of the embedded scope."""

from glassworks.train.learner import Attempt, Learner
from glassworks.train.loop import Plan, fit
from glassworks.train.objective import Joint, Layerwise, Objective, Replaced
from glassworks.train.recipes import Transcoders, smallworld_transcoders, transcoders, world_text
from glassworks.train.schedule import Rate, Sparsity
from glassworks.train.streams import Rows, Stream, Texts, Together
from glassworks.train.terms import Term, reconstruction, revival

__all__ = [
    "Attempt",
    "Joint",
    "Layerwise",
    "Learner",
    "Objective",
    "Plan",
    "Rate",
    "Replaced",
    "Rows",
    "Sparsity",
    "Stream",
    "Term",
    "Texts",
    "Together",
    "Transcoders",
    "fit",
    "reconstruction",
    "revival",
    "smallworld_transcoders",
    "transcoders",
    "world_text",
]
