"""Match: which features two models share, how features change with depth, and what a tuned model has alone."""

from glassworks.transfer.match.dictionary import Dictionary
from glassworks.transfer.match.directions import Written, over, share_basis, unchanged, written
from glassworks.transfer.match.evolve import Chain, Evolution, Step, evolve, followed
from glassworks.transfer.match.match import Matching, match_features, matched
from glassworks.transfer.match.report import Comparison, evolution_page, family, family_page, pair_page
from glassworks.transfer.match.scaling import Scaling, View, norm_difference, scale_crosscoder, scale_features, scaled
from glassworks.transfer.match.sought import Row, Sought
from glassworks.transfer.match.wiring import Wiring, wiring

__all__ = [
    "Chain",
    "Comparison",
    "Dictionary",
    "Evolution",
    "Matching",
    "Row",
    "Scaling",
    "Sought",
    "Step",
    "View",
    "Wiring",
    "Written",
    "evolution_page",
    "evolve",
    "family",
    "family_page",
    "followed",
    "match_features",
    "matched",
    "norm_difference",
    "over",
    "pair_page",
    "scale_crosscoder",
    "scale_features",
    "scaled",
    "share_basis",
    "unchanged",
    "wiring",
    "written",
]
