"""Grafts: a circuit of one model at work in another."""

from glassworks.transfer.graft.fit import SCALARS, Demonstrations, Fitting, fit_gains
from glassworks.transfer.graft.graft import Graft, Station, load_graft
from glassworks.transfer.graft.make import WRITES, Joint, make_graft, matched_write, partner_counts
from glassworks.transfer.graft.parts import FeaturePart, HeadPart, Part, feature_part, head_part

__all__ = [
    "SCALARS",
    "WRITES",
    "Demonstrations",
    "FeaturePart",
    "Fitting",
    "Graft",
    "HeadPart",
    "Joint",
    "Part",
    "Station",
    "feature_part",
    "fit_gains",
    "head_part",
    "load_graft",
    "make_graft",
    "matched_write",
    "partner_counts",
]
