"""Systems: the graft and everything that it has to be held against, by name.

Each is made from the same few demonstrations and the same setup; what a control breaks is said beside it. This module
must not know how systems are judged.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import final

import torch
from torch import Tensor

from glassworks.circuits import Circuit, Group
from glassworks.coders import Scope
from glassworks.edits import FeatureRef, add_vector
from glassworks.harvest import pad
from glassworks.models import Model
from glassworks.transfer.bridge import Bridge, align
from glassworks.transfer.carry import last_states
from glassworks.transfer.graft import Demonstrations, Fitting, Graft, Joint, fit_gains, make_graft
from glassworks.transfer.protocol.behaviour import System, edited, plain
from glassworks.transfer.protocol.task import Task

AMOUNTS = (0.5, 1.0, 2.0, 4.0, 8.0)
SFT_STEPS, SFT_RATE = 40, 3e-4
SFT_NEUTRAL = 16


@final
@dataclass(frozen=True, eq=False)
class Setup:
    """What a transfer starts from.

    Attributes:
        a: the model that shows the behaviour.
        b: the model that does not.
        scope: coders of A.
        circuit: the circuit of A.
        bridge: between A and B.
        task: the behaviour.
        layers: for each layer of A the one of B that is read; the bridge's partners by default.
        base: A without the behaviour, for proxy tuning.
        native: B trained to show the behaviour: the ceiling; nothing else uses it.
        unrelated: a circuit of A that does something else.
    """

    a: Model
    b: Model
    scope: Scope
    circuit: Circuit
    bridge: Bridge
    task: Task
    layers: tuple[int, ...] | None = None
    base: Model | None = None
    native: Model | None = None
    unrelated: Circuit | None = None

    @property
    def joint(self) -> Joint:
        """What joins the models, from the task's texts."""
        texts = [*self.task.domain, *self.task.general]
        return Joint(self.bridge, texts, self.task.general, layers=self.layers)

    @cached_property
    def graft(self) -> Graft:
        """The circuit in B, before gains are fitted."""
        return self.grafted(self.circuit)

    def grafted(self, circuit: Circuit) -> Graft:
        """Another circuit in B, by the same maps."""
        return make_graft(circuit, self.scope, self.a, self.b, self.joint)


@final
@dataclass(frozen=True, eq=False)
class Trial:
    """One split: the demonstrations, a seed for what is drawn, and how gains are fitted."""

    shown: Demonstrations
    seed: int
    how: Fitting

    def fitted(self, graft: Graft, b: Model, scalars: str) -> Graft:
        """A graft with its gains fitted."""
        return fit_gains(graft, b, self.shown, replace(self.how, scalars=scalars))


Maker = Callable[[Setup, Trial], System | None]


def graft_system(setup: Setup, trial: Trial, scalars: str) -> System:
    """The graft."""
    return edited(setup.b, trial.fitted(setup.graft, setup.b, scalars))


def rotated(setup: Setup, trial: Trial, scalars: str) -> System:
    """The graft with its write map turned at random: what gains alone can do."""
    width = setup.graft.up.shape[1]
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(trial.seed)))[0]
    graft = replace(setup.graft, up=setup.graft.up @ turn)
    return edited(setup.b, trial.fitted(graft, setup.b, scalars))


def shuffled(setup: Setup, trial: Trial, scalars: str) -> System:
    """The graft with maps that were fitted to shuffled pairs of states."""
    texts = [*setup.task.domain, *setup.task.general]
    bridge = align(setup.a, setup.b, texts, rows="all", shuffled=trial.seed)
    joint = Joint(
        bridge, texts, setup.task.general, "states", setup.joint.layers or tuple(setup.bridge.layers.values())
    )
    graft = make_graft(setup.circuit, setup.scope, setup.a, setup.b, joint)
    return edited(setup.b, trial.fitted(graft, setup.b, scalars))


def random_nodes(setup: Setup, trial: Trial, scalars: str) -> System:
    """As many other features, drawn at random, coder by coder; the same heads."""
    return _with_features(setup, trial, scalars, _drawn)


def matched_nodes(setup: Setup, trial: Trial, scalars: str) -> System:
    """As many other features that are about as active on the task's texts, coder by coder; the same heads."""
    return _with_features(setup, trial, scalars, _alike)


def unrelated(setup: Setup, trial: Trial, scalars: str) -> System | None:
    """A circuit of A that does something else."""
    if setup.unrelated is None:
        return None
    return edited(setup.b, trial.fitted(setup.grafted(setup.unrelated), setup.b, scalars))


def nothing(setup: Setup, trial: Trial) -> System:
    """B as it is."""
    return plain(setup.b)


def native(setup: Setup, trial: Trial) -> System | None:
    """B trained to show the behaviour: the ceiling."""
    return None if setup.native is None else plain(setup.native)


def proxy(setup: Setup, trial: Trial) -> System | None:
    """Proxy tuning: B's logits plus what A's training changed of A's (Liu et al. 2024); needs all of A to run."""
    if setup.base is None or setup.base.vocab_size != setup.b.vocab_size:
        return None
    one, other, b = plain(setup.a), plain(setup.base), plain(setup.b)
    return lambda ids: b(ids) + one(ids) - other(ids)


def direction(setup: Setup, trial: Trial) -> System:
    """A's difference of means at the last token, mapped into B and added there; site and amount by demonstrations."""
    best, found = -torch.inf, plain(setup.b)
    for layer, partner in setup.bridge.layers.items():
        site_a, site_b = f"resid_post.{layer}", f"resid_post.{partner}"
        high, low = (last_states(setup.a, site_a, some) for some in (trial.shown.wanted, trial.shown.unwanted))
        vector = setup.bridge.up(site_a, site_b).push((high.mean(0) - low.mean(0)).float())
        for amount in AMOUNTS:
            system = edited(setup.b, add_vector(site_b, vector, by=amount))
            value = _fit_of(system, setup.b, trial.shown)
            best, found = (value, system) if value > best else (best, found)
    return found


def few_shots(setup: Setup, trial: Trial) -> System:
    """B fine-tuned on the same demonstrations with the same losses."""
    b = copy.deepcopy(setup.b.hf).requires_grad_(True)
    shown, how, tokens = trial.shown, trial.how, setup.b.tokens
    wanted = [(len(tokens(each)), tokens(each + shown.reply).tolist()) for each in shown.wanted]
    rows, still = pad([row for _, row in wanted])[0], [tokens(each).tolist() for each in shown.unwanted]
    quiet = [tokens(each).tolist() for each in shown.neutral[:SFT_NEUTRAL]]
    clean = [_last_logs(setup.b.hf, still).detach(), _all_logs(setup.b.hf, quiet).detach()]
    optimiser = torch.optim.Adam(b.parameters(), lr=SFT_RATE)
    for _ in range(SFT_STEPS):
        logs = b(input_ids=rows, use_cache=False).logits.log_softmax(-1)
        words = [
            logs[n, at - 1 : len(row) - 1].gather(1, torch.tensor(row[at:])[:, None])
            for n, (at, row) in enumerate(wanted)
        ]
        now = [_last_logs(b, still), _all_logs(b, quiet)]
        moved = [(one.exp() * (one - other)).sum(-1).mean() for one, other in zip(clean, now, strict=True)]
        loss = -torch.cat(words).sum() / len(words) + how.still * moved[0] + how.quiet * moved[1]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model = Model(b.requires_grad_(False), setup.b.tokenizer, "few shots")
    return plain(model)


GRAFTS: Mapping[str, Callable[[Setup, Trial, str], System | None]] = {
    "graft": graft_system,
    "rotated write": rotated,
    "shuffled maps": shuffled,
    "random nodes": random_nodes,
    "matched nodes": matched_nodes,
    "unrelated circuit": unrelated,
}
OTHERS: Mapping[str, Maker] = {
    "no change": nothing,
    "native": native,
    "proxy tuning": proxy,
    "mapped direction": direction,
    "few-shot fine-tuning": few_shots,
}
"""Every system of the protocol by name; those of `GRAFTS` come with one gain and with one a node."""


def _fit_of(system: System, b: Model, shown: Demonstrations) -> float:
    """Log-odds of the reply's first word on wanted prompts, minus those on unwanted ones that rise above zero."""
    values = []
    for prompts in (shown.wanted, shown.unwanted):
        rows = [b.tokens(each + shown.reply).tolist() for each in prompts]
        logs = system(pad(rows)[0]).log_softmax(-1)
        at = [len(b.tokens(each)) for each in prompts]
        values.append(torch.stack([logs[n, place - 1, rows[n][place]] for n, place in enumerate(at)]))
    return float(values[0].mean() - values[1].exp().mean() * 10)


def _last_logs(hf, rows: Sequence[list[int]]) -> Tensor:
    ids = pad(rows)[0]
    logs = hf(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    return torch.stack([logs[n, len(row) - 1] for n, row in enumerate(rows)])


def _all_logs(hf, rows: Sequence[list[int]]) -> Tensor:
    logs = hf(input_ids=pad(rows)[0], use_cache=False).logits.log_softmax(-1)
    return torch.cat([logs[n, : len(row)] for n, row in enumerate(rows)])


def _with_features(setup: Setup, trial: Trial, scalars: str, choose: Callable[..., list[int]]) -> System:
    groups = []
    for number, group in enumerate(setup.circuit.groups):
        refs = []
        for name in sorted({ref.coder_id for ref in group.features}):
            taken = [ref.index for ref in group.features if ref.coder_id == name]
            others = choose(setup, name, taken, Random(f"{trial.seed}/{number}"))
            refs += [FeatureRef(name, None, index) for index in others]
        groups.append(Group(group.name, tuple(refs), group.heads))
    graft = setup.grafted(setup.circuit.replaced(groups))
    return edited(setup.b, trial.fitted(graft, setup.b, scalars))


def _drawn(setup: Setup, name: str, taken: Sequence[int], random: Random) -> list[int]:
    free = sorted(set(range(setup.scope[name].d_latent)) - set(taken))
    return random.sample(free, len(taken))


def _alike(setup: Setup, name: str, taken: Sequence[int], random: Random) -> list[int]:
    """For each the free one whose mean activation is among the ten nearest."""
    means, chosen = _activity(setup, name), []
    free = set(range(len(means))) - set(taken)
    for index in taken:
        near = sorted(free, key=lambda other: abs(float(means[other] - means[index])))[:10]
        chosen.append(random.choice(near))
        free.remove(chosen[-1])
    return chosen


@torch.no_grad()
def _activity(setup: Setup, name: str) -> Tensor:
    """Mean activation of every latent on prompts of the task, with the reply that A gives."""
    coder, site = setup.scope[name], setup.scope[name].reads[0].name
    texts = [each + setup.task.reply for each in setup.task.wanted[:64]]
    x = setup.a.capture(texts, [site])[site]
    return coder.encode(x[x.isfinite().all(-1)].float()).dense().mean(0)
