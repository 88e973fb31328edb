"""Train: one loop for every coder.

A recipe makes objectives; a table of them is a fleet; the loop shows it a stream; a scope comes out.
"""

from glassworks.train.adopt import adopt, take_up
from glassworks.train.attempt import Attempt, Part, Share
from glassworks.train.estimate import estimate
from glassworks.train.export import export
from glassworks.train.fleet import Fleet
from glassworks.train.gates import BatchTopK, Gate, Gated, JumpReLU, Rectifier, TopK
from glassworks.train.joint import Divergence, Texts
from glassworks.train.layouts import KINDS, Layout, layouts
from glassworks.train.learner import Learner
from glassworks.train.loop import Plan, fit
from glassworks.train.objective import Adam, Objective
from glassworks.train.recipes import RECIPES, Order
from glassworks.train.request import Request
from glassworks.train.revive import Dead
from glassworks.train.schedule import Ramp, Rate
from glassworks.train.stack import stack
from glassworks.train.start import Start
from glassworks.train.table import Axes, table
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
from glassworks.train.trainee import Member
from glassworks.train.world import FULL, STORED, TRANSCODERS, Coders, Suite, smallworld_scope, train_suite, world_text

__all__ = [
    "FULL",
    "KINDS",
    "L0",
    "L1",
    "RECIPES",
    "STORED",
    "TRANSCODERS",
    "Adam",
    "Attempt",
    "AuxK",
    "Axes",
    "BatchTopK",
    "Coders",
    "Dead",
    "Divergence",
    "Fleet",
    "Frequency",
    "Gate",
    "GateL1",
    "GateReconstruction",
    "Gated",
    "JumpReLU",
    "Layout",
    "Learner",
    "Member",
    "Objective",
    "Order",
    "Part",
    "Plan",
    "QuadraticL0",
    "Ramp",
    "Rate",
    "Reconstruction",
    "Rectifier",
    "Request",
    "Share",
    "Silence",
    "Start",
    "Suite",
    "Tanh",
    "Term",
    "Texts",
    "TopK",
    "adopt",
    "estimate",
    "export",
    "fit",
    "layouts",
    "smallworld_scope",
    "stack",
    "table",
    "take_up",
    "train_suite",
    "world_text",
]
