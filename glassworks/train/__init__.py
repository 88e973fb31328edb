"""Train: one loop for every coder.

A recipe makes specs; a trainer holds a run for each of them; the loop feeds it a stream; a scope comes out.
"""

from glassworks.train.divergence import Divergence
from glassworks.train.gates import BatchTopK, Gate, Gated, JumpReLU, Rectifier, TopK
from glassworks.train.layouts import KINDS, Layout, layouts
from glassworks.train.loop import fit
from glassworks.train.output import CoderOutput, CoderPart, PartOutput
from glassworks.train.recipes import RECIPES, RecipeInput, grid
from glassworks.train.request import Request, estimate
from glassworks.train.run import TrainingRun
from glassworks.train.schedule import Ramp, Rate
from glassworks.train.spec import Adam, Dead, Spec, Start
from glassworks.train.terms import (
    L0,
    L1,
    AuxK,
    Frequency,
    GateL1,
    GateReconstruction,
    QuadraticL0,
    Reconstruction,
    Silence,
    Tanh,
    Term,
)
from glassworks.train.trainer import AuxiliaryLoss, Trainer
from glassworks.train.warm_start import adopt, initialise, stack

__all__ = [
    "KINDS",
    "L0",
    "L1",
    "RECIPES",
    "Adam",
    "AuxK",
    "AuxiliaryLoss",
    "BatchTopK",
    "CoderOutput",
    "CoderPart",
    "Dead",
    "Divergence",
    "Frequency",
    "Gate",
    "GateL1",
    "GateReconstruction",
    "Gated",
    "JumpReLU",
    "Layout",
    "PartOutput",
    "QuadraticL0",
    "Ramp",
    "Rate",
    "RecipeInput",
    "Reconstruction",
    "Rectifier",
    "Request",
    "Silence",
    "Spec",
    "Start",
    "Tanh",
    "Term",
    "TopK",
    "Trainer",
    "TrainingRun",
    "adopt",
    "estimate",
    "fit",
    "grid",
    "initialise",
    "layouts",
    "stack",
]
