"""Evals: how good coders are, measured on text that they were not trained on."""

from glassworks.evals.fidelity import Fidelity, fidelity
from glassworks.evals.measure import measure
from glassworks.evals.replaced import Recovered, Stand, recovered, replacing

__all__ = ["Fidelity", "Recovered", "Stand", "fidelity", "measure", "recovered", "replacing"]
