"""Prediction: does the circuit that some prompts of a task share predict what edits do on prompts it never saw?

From the seen prompts' graphs: the features that recur with the largest total effect on the outcome, and that effect
a unit of activation. On each unseen prompt, no graph is made: a feature's activation there times its effect is the
prediction, and silencing it in the live model the measurement. The control is a random circuit of as many recurring
features, matched by place and activation. This module must not know how graphs are made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits.checks.control import NEAREST
from glassworks.circuits.checks.effects import changes, total
from glassworks.circuits.checks.statistics import Correlation, correlation, gap, known, mean_interval
from glassworks.circuits.graph import Graph
from glassworks.circuits.many.keys import keyed
from glassworks.circuits.nodes import LOGIT
from glassworks.coders import Scope
from glassworks.edits import FeatureRef, ablate
from glassworks.errors import BadInput
from glassworks.models import Model, Prompt

SEEN = 0.5
"""Share of the seen prompts in which a feature must be active."""


@final
@dataclass(frozen=True)
class Member:
    """A feature of the circuit.

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

    circuit: tuple[Member, ...]
    random: tuple[Member, ...]
    predicted: Correlation
    control: Correlation
    swapped: Correlation
    better: tuple[float, float, float]
    moved: tuple[float, float, float]
    moved_random: tuple[float, float, float]

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return known(asdict(self))


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
    graphs = {graph.prompt for graph in seen} | {graph.tokens for graph in seen}
    twice = [each for each in unseen if (each if isinstance(each, str) else tuple(map(int, each))) in graphs]
    if len(seen) < 2 or len(unseen) < 3 or twice:
        raise BadInput(
            f"A prediction needs 2 graphs and 3 prompts at least, none in both; got {len(seen)} and {len(unseen)}"
            + (f", and {twice[0]!r} in both." if twice else ".")
        )
    members = recurring(seen)
    circuit = sorted(members, key=lambda each: -abs(each.effect * each.activation))[:size]
    random = _random(members, circuit, Random(seed))
    if len(circuit) < size or len(random) < size:
        raise BadInput(f"{len(members)} features recur, too few for a circuit of {size} and a random one beside it.")
    rows = [_measured(model, scope, prompt, [*circuit, *random]) for prompt in unseen]
    active, change = (torch.stack(column) for column in zip(*rows, strict=True))
    effect = torch.tensor([each.effect for each in [*circuit, *random]])
    return _judged(circuit, random, -effect * active, change, active > 0, seed)


def _judged(
    circuit: list[Member],
    random: list[Member],
    expected: Float[Tensor, "prompt feature"],
    change: Float[Tensor, "prompt feature"],
    active: Tensor,
    seed: int,
) -> Prediction:
    size = len(circuit)
    prompt = torch.arange(len(active))[:, None].expand(-1, size)
    mine, rest, both = active[:, :size], active[:, size:], active[:, :size] & active[:, size:]
    first, second = slice(0, size), slice(size, None)

    def pairs(x: slice, y: slice, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return expected[:, x][mask], change[:, y][mask], prompt[mask]

    own, crossed = pairs(first, first, mine), pairs(first, second, both)
    return Prediction(
        circuit=tuple(circuit),
        random=tuple(random),
        predicted=correlation(*own, seed),
        control=correlation(*pairs(second, second, rest), seed),
        swapped=correlation(*crossed, seed),
        better=gap(own, crossed, len(active), seed),
        moved=mean_interval(_by_prompt(change[:, :size], mine), seed),
        moved_random=mean_interval(_by_prompt(change[:, size:], rest), seed),
    )


def _by_prompt(change: Tensor, active: Tensor) -> Float[Tensor, " prompt"]:
    """Mean absolute change of each prompt that has an active feature."""
    some = active.any(1)
    return (change.abs() * active).sum(1)[some] / active.sum(1)[some]


def recurring(graphs: Sequence[Graph]) -> list[Member]:
    """Features active in many of the graphs, with their total effect on the likeliest outcome a unit of activation."""
    keys = keyed(graphs)
    effect, activation, count = torch.zeros(3, len(keys))
    coders: dict[str, str] = {}
    for graph, codes in zip(graphs, keys.of, strict=True):
        coders |= graph.origin.coders
        nodes = graph.nodes.of("feature").nonzero()[:, 0]
        mine, which = codes[nodes].unique(return_inverse=True)
        groups = [nodes[which == each] for each in range(len(mine))]
        size = torch.zeros(len(mine)).index_add_(0, which, graph.nodes.activation[nodes])
        moved = total(graph, changes(graph, groups, -1.0))[:, _outcome(graph)]
        effect[mine] -= moved / size
        activation[mine] += size
        count[mine] += 1
    found = [key for key in keys.features if count[key] >= SEEN * len(graphs)]
    return [
        Member(
            name=keys.names[key],
            coder=coders.get(keys.places[key], ""),
            index=keys.indices[key],
            effect=float(effect[key] / count[key]),
            activation=float(activation[key] / count[key]),
            frequency=float(count[key]) / len(graphs),
        )
        for key in found
    ]


def _outcome(graph: Graph) -> int:
    """The row of the likeliest outcome."""
    node = int(torch.where(graph.nodes.of(LOGIT), graph.edges.weights, torch.full((), -1.0)).argmax())
    return int((graph.rows == node).nonzero()[0])


def _random(members: list[Member], circuit: list[Member], random: Random) -> list[Member]:
    """As many others, each of the same coder and of like activation; fewer where a coder has no others."""
    free = [each for each in members if each not in circuit]
    chosen = []
    for wanted in circuit:
        like = [each for each in free if each.coder == wanted.coder] or free
        like.sort(key=lambda each: abs(each.activation - wanted.activation))
        if like:
            chosen.append(random.choice(like[:NEAREST]))
            free.remove(chosen[-1])
    return chosen


@torch.no_grad()
def _measured(model: Model, scope: Scope, prompt: Prompt, members: Sequence[Member]) -> tuple[Tensor, Tensor]:
    """Activation of each feature on a prompt, positions summed, and how silencing it moves the likeliest token."""
    coders = {each.coder: scope[each.coder] for each in members}
    captured = model.capture(prompt, ["logits", *(coder.reads[0] for coder in coders.values())])
    first = scope.masked([model.token_text(token) for token in model.tokens(prompt).tolist()])
    active = _active(members, coders, captured, first)
    clean, change = captured["logits"][-1].float(), torch.zeros(len(members))
    best = int(clean.argmax())
    for number in active.nonzero()[:, 0].tolist():
        member = members[number]
        places = range(first, len(captured["logits"]))
        with model.edit(ablate([FeatureRef(member.coder, place, member.index) for place in places], scope)):
            logits = model.capture(prompt, ["logits"])["logits"][-1].float()
        change[number] = _value(model, logits, best) - _value(model, clean, best)
    return active, change


def _active(
    members: Sequence[Member], coders: Mapping[str, Any], captured: Mapping[str, Tensor], first: int
) -> Float[Tensor, " member"]:
    sums = {}
    for name, coder in coders.items():
        dense = coder.encode(captured[coder.reads[0].name].float()).dense()
        sums[name] = dense[first:].sum(0).cpu()
    return torch.stack([sums[each.coder][each.index] for each in members])


def _value(model: Model, logits: Tensor, token: int) -> float:
    """A token's logit minus the mean, before soft-capping."""
    cap = model.softcap
    raw = logits.double() if cap is None else cap * torch.atanh(logits.double() / cap)
    return float(raw[token] - raw.mean())
