"""Check: does a graph add up, does it rebuild the model, and does it predict what edits of the real model do?

Exact laws decide whether a graph passes: conservation, replay, and direct effects with everything nonlinear frozen.
How well the frozen graph predicts a model that is live is a measurement, told with its interval and its controls.
This module must not know how a graph was made.
"""

from dataclasses import asdict, dataclass
from random import Random
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits.checks.measured import Bench
from glassworks.circuits.checks.replay import Replay, replay
from glassworks.circuits.checks.statistics import known
from glassworks.circuits.checks.trials import Direct, Effects, Silenced, circuit_tried, edges_tried, paths_tried, scale
from glassworks.circuits.traced import Traced
from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.models import Model

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest relative residual of a row, by number type of the model; `ROUGH` for narrower ones."""
ROUGH = 5e-2
MOST_DRAWS = 20
"""Random circuits beside the circuit."""
MEAN = 0.1  # of the tolerance: what the residuals may be on the average


@final
@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        residual: largest relative residual of a row whose sum is compared with the value measured now; NaN where
            the graph comes from another program, which does not tell biases.
        mean: mean residual.
        traced: largest residual as it was when the graph was traced.
        stale: largest difference of a target's value then and now, relative to its row's size.
        replay: features, errors and biases put together in the model; None where the graph is a part.
        direct: single edges; None where all are approximate.
        effects: by mode, how well all paths predict.
        silenced: the circuit and random circuits; None where there are too few features.
        tolerance: what was allowed.
        failures: what is wrong, one sentence each.
    """

    residual: float
    mean: float
    traced: float
    stale: float
    replay: Replay | None
    direct: Direct | None
    effects: dict[str, Effects]
    silenced: Silenced | None
    tolerance: float
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all exact laws hold."""
        return not self.failures

    def plain(self) -> dict[str, Any]:
        """The findings as JSON holds them: what is not known is null."""
        return known(asdict(self) | {"passed": self.passed})


def check(graph: Traced, model: Model, scope: Scope | None, interventions: int = 32, seed: int = 0) -> Check:
    """Check a graph against its model; see `Check`.

    Args:
        graph: what is checked.
        model: the model that it explains.
        scope: the scope that it was traced with.
        interventions: how many features are silenced in each mode, half of them of the circuit, half of them
            random; and how many sources are changed for direct edges.
        seed: of all draws.

    Raises:
        BadInput: the model or the scope cannot be those of the graph, or there is nothing to draw.
    """
    if interventions < 4:
        raise BadInput(f"{interventions} interventions tell nothing; ask for 4 or more.")
    bench, random = Bench(graph, model, scope), Random(seed)
    values = bench.values()
    told, whole = graph.values.isfinite(), not bool(graph.rest_size.any())
    left = graph.matrix.sum(1) + graph.bias + graph.rest - values
    residual = (left.abs() / scale(graph))[told]
    found = {
        "residual": _worst(residual),
        "mean": float(residual.mean()),
        "traced": _worst(graph.conservation),
        "stale": _worst((graph.values - values).abs() / scale(graph)),
        "replay": replay(bench) if whole and bool(told.any()) else None,
        "direct": edges_tried(bench, values, interventions, random, whole),
        "effects": paths_tried(bench, values, interventions, random, seed),
        "silenced": circuit_tried(bench, values, min(interventions, MOST_DRAWS), random),
        "tolerance": TOLERANCE.get(model.dtype, ROUGH),
    }
    return Check(**found, failures=tuple(_failures(found)))


def _worst(values: Float[Tensor, " t"]) -> float:
    finite = values[values.isfinite()]
    return float(finite.max()) if len(finite) else torch.nan


def _failures(found: dict[str, Any]) -> list[str]:
    """What is wrong; comparisons with what is not known are false."""
    allowed, edges, again = found["tolerance"], found["direct"], found["replay"]
    wrong = {
        f"The rows do not add up: a residual is {found['residual']:.1e} (mean {found['mean']:.1e}), "
        f"allowed are {allowed:.0e} and {MEAN * allowed:.0e}.": found["residual"] > allowed
        or found["mean"] > MEAN * allowed,
        f"The rows did not add up when the graph was traced: a residual is {found['traced']:.1e}.": found["traced"]
        > allowed,
        f"The model gives other values than the graph: {found['stale']:.1e} of a row's size.": found["stale"] > allowed,
    }
    if edges is not None:
        told = f"Edges from {edges.kind} nodes are wrong: the model moves {edges.worst:.1e} of a row's size otherwise."
        wrong[told] = edges.worst > allowed
    if again is not None:
        wrong |= {
            f"The graph lacks {again.missing} active features and has {again.strange} that are silent.": bool(
                again.missing or again.strange
            ),
            f"Activations differ from the coders' by {again.activations:.1e}.": again.activations > 10 * allowed,
            f"Features, errors and biases do not rebuild the logits: {again.logits:.1e} off.": again.logits > allowed,
        }
    return [sentence for sentence, holds in wrong.items() if holds]
