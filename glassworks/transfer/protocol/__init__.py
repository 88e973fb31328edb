"""The protocol: is a transferred behaviour there, and is it the circuit that brings it?"""

from glassworks.transfer.protocol.behaviour import Behaviour, Judge, System, edited, plain
from glassworks.transfer.protocol.evaluate import Evaluation, Row, evaluate, load_evaluation, verdict
from glassworks.transfer.protocol.page import page
from glassworks.transfer.protocol.systems import GRAFTS, OTHERS, Setup, Trial
from glassworks.transfer.protocol.task import Task, read_task, world_task

__all__ = [
    "GRAFTS",
    "OTHERS",
    "Behaviour",
    "Evaluation",
    "Judge",
    "Row",
    "Setup",
    "System",
    "Task",
    "Trial",
    "edited",
    "evaluate",
    "load_evaluation",
    "page",
    "plain",
    "read_task",
    "verdict",
    "world_task",
]
