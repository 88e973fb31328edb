"""Evals: how good coders are, measured on text that they were not trained on."""

from glassworks.evals.fidelity import Fidelity, Meter, fidelity
from glassworks.evals.losses import Losses
from glassworks.evals.measure import described, fidelities, measure, recordings, sets
from glassworks.evals.page import figures, page
from glassworks.evals.rebuild import Rebuilder, writers
from glassworks.evals.replaced import Replacement, Stand, Stands, coded, constant, replacing
from glassworks.evals.strata import strata
from glassworks.evals.trials import Recovered, Trial, recovered

__all__ = [
    "Fidelity",
    "Losses",
    "Meter",
    "Rebuilder",
    "Recovered",
    "Replacement",
    "Stand",
    "Stands",
    "Trial",
    "coded",
    "constant",
    "described",
    "fidelities",
    "fidelity",
    "figures",
    "measure",
    "page",
    "recordings",
    "recovered",
    "replacing",
    "sets",
    "strata",
    "writers",
]
