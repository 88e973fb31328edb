"""Prediction: does the circuit that some prompts of a task share predict what edits do on prompts it never saw?

From the seen prompts' graphs: the features that recur with the largest total effect on the outcome, and that effect
per unit of activation. On each unseen prompt, no graph is made: a feature's activation there times its effect is the
prediction, and silencing it in the live model the measurement. The control is a random circuit of as many recurring
features, matched by place and activation.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, final

import torch
from torch import Tensor

from glassworks import stats
from glassworks.circuits.check import changes, json_values, total
from glassworks.circuits.graph import Graph
from glassworks.circuits.many import Interval, keyed, mean_interval
from glassworks.circuits.nodes import FEATURE, NEAREST
from glassworks.circuits.targets import logit_value
from glassworks.coders import Scope
from glassworks.edits import FeatureRef, ablate
from glassworks.errors import BadInput
from glassworks.models import Model, Prompt
from glassworks.pages import facts, with_interval
from glassworks.stats import Correlation

SEEN = 0.5
"""Share of the seen prompts in which a feature must be active."""


@final
@dataclass(frozen=True)
class FeatureEffect:
    """A feature that recurs, with its effect on the outcome.

    Attributes:
        name: its label, or place and latent.
        coder: id of its coder.
        index: its latent.
        effect: mean change of the outcome's value that a unit of its activation makes on the seen prompts.
        activation: its mean activation there, positions summed.
        frequency: share of the seen prompts in which it is active.
    """

    name: str
    coder: str
    index: int
    effect: float
    activation: float
    frequency: float


def recurring(graphs: Sequence[Graph]) -> list[FeatureEffect]:
    """Features active in many of the graphs, with their total effect on the likeliest outcome per unit active."""
    keys = keyed(graphs)
    effect, activation, count = torch.zeros(3, len(keys))
    coders: dict[str, str] = {}
    for graph, codes in zip(graphs, keys.of, strict=True):
        coders |= graph.origin.coders
        nodes = graph.nodes.of(FEATURE).nonzero()[:, 0]
        mine, which = codes[nodes].unique(return_inverse=True)
        groups = [nodes[which == number] for number in range(len(mine))]
        size = torch.zeros(len(mine)).index_add_(0, which, graph.nodes.activation[nodes])
        row = int((graph.rows == graph.best).nonzero()[0])
        effect[mine] -= total(graph, changes(graph, groups, -1.0))[:, row] / size
        activation[mine] += size
        count[mine] += 1
    return [
        FeatureEffect(
            name=keys.names[key],
            coder=coders.get(keys.places[key], ""),
            index=keys.indices[key],
            effect=float(effect[key] / count[key]),
            activation=float(activation[key] / count[key]),
            frequency=float(count[key]) / len(graphs),
        )
        for key, kind in enumerate(keys.kinds)
        if kind == FEATURE and count[key] >= SEEN * len(graphs)
    ]


@final
@dataclass(frozen=True)
class Prediction:
    """How well a circuit predicts edits on unseen prompts.

    Attributes:
        circuit: its features.
        random: the random circuit.
        predicted: correlation over features and unseen prompts, by prompts; only where the feature is active.
        control: the same of the random circuit with its own predictions.
        swapped: the circuit's predictions against what the random circuit's edits do.
        better: how much larger `predicted` is than `swapped`, with its 95 % interval over the unseen prompts.
        moved: mean absolute change of the outcome by one feature of the circuit, with its interval.
        moved_random: the same of the random circuit.
    """

    circuit: tuple[FeatureEffect, ...]
    random: tuple[FeatureEffect, ...]
    predicted: Correlation
    control: Correlation
    swapped: Correlation
    better: Interval
    moved: Interval
    moved_random: Interval

    def __rich__(self) -> Any:
        lines = {
            "unseen prompts": f"edits predicted with r {self.predicted} ({self.predicted.pairs} edits)",
            "random circuit": f"r {self.control}; its edits by the circuit's numbers: r {self.swapped}",
            "better by": with_interval(self.better),
            "one feature": f"moves the outcome by {with_interval(self.moved)}",
            "a random one": f"by {with_interval(self.moved_random)}",
        }
        return facts(lines)

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return json_values(asdict(self))


def predict(
    model: Model, scope: Scope, seen: Sequence[Graph], unseen: Sequence[Prompt], size: int = 8, seed: int = 0
) -> Prediction:
    """Find the circuit that graphs share, and test it on prompts that they are not of.

    Args:
        model: the model.
        scope: its coders.
        seen: graphs of the task's prompts; the likeliest outcome of each is meant.
        unseen: other prompts of the task.
        size: how many features the circuit has.
        seed: draws the random circuit.

    Raises:
        BadInput: fewer than 2 graphs or 3 unseen prompts, a prompt that is in both, or too few features recur.
    """
    prompts = {graph.prompt for graph in seen} | {graph.tokens for graph in seen}
    twice = [prompt for prompt in unseen if (prompt if isinstance(prompt, str) else tuple(map(int, prompt))) in prompts]
    if len(seen) < 2 or len(unseen) < 3 or twice:
        raise BadInput(
            f"A prediction needs 2 graphs and 3 prompts at least, none in both; got {len(seen)} and {len(unseen)}"
            + (f", and {twice[0]!r} in both." if twice else ".")
        )
    features = recurring(seen)
    circuit = sorted(features, key=lambda feature: -abs(feature.effect * feature.activation))[:size]
    free, draw, random = [feature for feature in features if feature not in circuit], Random(seed), []
    for wanted in circuit:  # others of the same coder and of like activation
        close = [feature for feature in free if feature.coder == wanted.coder] or free
        close.sort(key=lambda feature: abs(feature.activation - wanted.activation))
        if close:
            random.append(draw.choice(close[:NEAREST]))
            free.remove(random[-1])
    if len(circuit) < size or len(random) < size:
        raise BadInput(f"{len(features)} features recur, too few for a circuit of {size} and a random one beside it.")

    both = [*circuit, *random]
    measured = [_silenced(model, scope, prompt, both) for prompt in unseen]
    active, change = (torch.stack(column) for column in zip(*measured, strict=True))
    expected, on = -torch.tensor([feature.effect for feature in both]) * active, active > 0
    prompt = torch.arange(len(unseen))[:, None].expand(-1, size)
    mine, rest = slice(0, size), slice(size, None)

    def pairs(x: slice, y: slice) -> tuple[Tensor, Tensor, Tensor]:
        """What is expected of some features, what others change, and the prompt, where both are active."""
        mask = on[:, x] & on[:, y]
        return expected[:, x][mask], change[:, y][mask], prompt[mask]

    def moved(features: slice) -> Interval:
        """Mean absolute change of each prompt that has an active feature."""
        size, count = (change[:, features].abs() * on[:, features]).sum(1), on[:, features].sum(1)
        return mean_interval((size / count)[count > 0], seed)

    own, swapped = pairs(mine, mine), pairs(mine, rest)
    sums = [stats.by_cluster(stats.moments(x, y), cluster, len(unseen)) for x, y, cluster in (own, swapped)]
    drawn = stats.resampled(torch.cat(sums, 1), seed)
    better = stats.interval(stats.pearson(drawn[:, :6])[0] - stats.pearson(drawn[:, 6:])[0], len(unseen))
    return Prediction(
        circuit=tuple(circuit),
        random=tuple(random),
        predicted=stats.correlation(*own, seed),
        control=stats.correlation(*pairs(rest, rest), seed),
        swapped=stats.correlation(*swapped, seed),
        better=(better.value, better.low, better.high),
        moved=moved(mine),
        moved_random=moved(rest),
    )


@torch.no_grad()
def _silenced(model: Model, scope: Scope, prompt: Prompt, features: Sequence[FeatureEffect]) -> tuple[Tensor, Tensor]:
    """Activation of each feature on a prompt, positions summed, and how silencing it moves the likeliest token."""
    coders = {feature.coder: scope[feature.coder] for feature in features}
    captured = model.capture(prompt, ["logits", *(coder.reads[0] for coder in coders.values())])
    first = scope.masked([model.token_text(token) for token in model.tokens(prompt).tolist()])
    sums = {
        name: coder.encode(captured[coder.reads[0].name].float()).dense()[first:].sum(0).cpu()
        for name, coder in coders.items()
    }
    active = torch.stack([sums[feature.coder][feature.index] for feature in features])
    best, change = int(captured["logits"][-1].float().argmax()), torch.zeros(len(features))

    def value(logits: Tensor) -> float:
        logits = logit_value(model, logits).double()
        return float(logits[best] - logits.mean())

    for number in active.nonzero()[:, 0].tolist():
        feature, places = features[number], range(first, len(captured["logits"]))
        refs = [FeatureRef(feature.coder, place, feature.index) for place in places]
        with model.edit(ablate(refs, scope)):
            logits = model.capture(prompt, ["logits"])["logits"]
        change[number] = value(logits[-1]) - value(captured["logits"][-1])
    return active, change
