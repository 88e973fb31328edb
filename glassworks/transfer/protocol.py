"""Protocol: is a transferred behaviour there, and is it the circuit that brings it?

Every system, the graft and all that it is compared with, is made from the same few demonstrations, which are drawn
anew for each split. Every interval is a bootstrap over splits and test items together, and the verdict follows from
the rows.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks import artefacts, stats
from glassworks.circuits import Circuit, Group
from glassworks.codec import decode
from glassworks.coders import Scope
from glassworks.edits import FeatureRef, add_vector
from glassworks.errors import BadInput
from glassworks.harvest import pad
from glassworks.models import Model
from glassworks.pages import document, figure, heading, interval_bars, panels, paragraph, table, with_interval
from glassworks.transfer.bridge import Bridge, align
from glassworks.transfer.carry import last_states
from glassworks.transfer.coactivation import Interval, as_interval
from glassworks.transfer.graft import DEFAULT_FITTING, Demonstrations, Fitting, Graft, fit_gains
from glassworks.transfer.grafting import make_graft
from glassworks.transfer.task import Behaviour, Judge, System, Task, edited_system, plain_system

KIND = "transfer_report"
ONCE = ("no change", "native", "proxy tuning")
"""Systems that no demonstration enters."""
SCALARS = {"one": "one gain", "node": "gain per node"}
CONTROLS = ("random nodes", "matched nodes", "shuffled maps", "unrelated circuit")
BUDGET = 0.01
"""Divergence on neutral text, in nats a token, up to which a behaviour counts as carried."""
AMOUNTS = (0.5, 1.0, 2.0, 4.0, 8.0)
SFT_STEPS, SFT_RATE, SFT_NEUTRAL = 40, 3e-4, 16


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

    @cached_property
    def graft(self) -> Graft:
        """The circuit in B, before gains are fitted."""
        return self.grafted(self.circuit)

    @property
    def texts(self) -> list[str]:
        """The task's texts that maps are fitted to."""
        return [*self.task.domain, *self.task.general]

    def grafted(self, circuit: Circuit) -> Graft:
        """Another circuit in B, by the same maps."""
        general = self.task.general
        return make_graft(circuit, self.scope, self.a, self.b, self.bridge, self.texts, general, layers=self.layers)


@final
@dataclass(frozen=True, eq=False)
class Split:
    """The demonstrations of one split, a seed for what is drawn, and how gains are fitted."""

    demonstrations: Demonstrations
    seed: int
    fitting: Fitting


def _graft(setup: Setup, split: Split) -> Graft:
    return setup.graft


def _rotated(setup: Setup, split: Split) -> Graft:
    """The graft with its write map rotated at random: what gains alone can do."""
    width = setup.graft.up.shape[1]
    rotation = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(split.seed)))[0]
    return replace(setup.graft, up=setup.graft.up @ rotation)


def _shuffled(setup: Setup, split: Split) -> Graft:
    """The graft with maps that were fitted to shuffled pairs of states."""
    a, b, general = setup.a, setup.b, setup.task.general
    bridge = align(a, b, setup.texts, rows="all", shuffled=split.seed)
    layers = setup.layers or tuple(setup.bridge.layers.values())
    return make_graft(setup.circuit, setup.scope, a, b, bridge, setup.texts, general, write="states", layers=layers)


def _other_nodes(setup: Setup, split: Split, matched: bool) -> Graft:
    """As many other features, coder by coder, drawn from all or from those of about the same activity; same heads."""
    groups = []
    for number, group in enumerate(setup.circuit.groups):
        refs = []
        for name in sorted({ref.coder_id for ref in group.features}):
            coder, random = setup.scope[name], Random(f"{split.seed}/{number}")
            taken = [ref.index for ref in group.features if ref.coder_id == name]
            free = set(range(coder.d_latent)) - set(taken)
            if not matched:
                chosen = random.sample(sorted(free), len(taken))
            else:
                # The mean activations on prompts of the task, with the reply that A gives.
                site, chosen = coder.reads[0].name, []
                x = setup.a.capture([prompt + setup.task.reply for prompt in setup.task.wanted[:64]], [site])[site]
                with torch.no_grad():
                    means = coder.encode(x[x.isfinite().all(-1)].float()).dense().mean(0)
                for index in taken:
                    distance = {other: abs(float(means[other] - means[index])) for other in free}
                    chosen.append(random.choice(sorted(free, key=distance.__getitem__)[:10]))
                    free.remove(chosen[-1])
            refs += [FeatureRef(name, None, index) for index in chosen]
        groups.append(Group(group.name, tuple(refs), group.heads))
    return setup.grafted(setup.circuit.replaced(groups))


def _unrelated(setup: Setup, split: Split) -> Graft | None:
    """A circuit of A that does something else."""
    return None if setup.unrelated is None else setup.grafted(setup.unrelated)


def _proxy(setup: Setup, split: Split) -> System | None:
    """Proxy tuning: B's logits plus what A's training changed of A's (Liu et al. 2024); needs all of A to run."""
    if setup.base is None or setup.base.vocab_size != setup.b.vocab_size:
        return None
    tuned, base, b = plain_system(setup.a), plain_system(setup.base), plain_system(setup.b)
    return lambda ids: b(ids) + tuned(ids) - base(ids)


def _direction(setup: Setup, split: Split) -> System:
    """A's difference of means at the last token, mapped into B and added there; site and amount by demonstrations."""
    best, chosen, demonstrations = -torch.inf, plain_system(setup.b), split.demonstrations
    for layer, partner in setup.bridge.layers.items():
        site_a, site_b = f"resid_post.{layer}", f"resid_post.{partner}"
        high, low = (
            last_states(setup.a, site_a, prompts) for prompts in (demonstrations.wanted, demonstrations.unwanted)
        )
        vector = setup.bridge.up(site_a, site_b).push((high.mean(0) - low.mean(0)).float())
        for amount in AMOUNTS:
            system = edited_system(setup.b, add_vector(site_b, vector, by=amount))
            # Log-probability of the reply's first word on wanted prompts, with a penalty on unwanted ones.
            means = []
            for prompts in (demonstrations.wanted, demonstrations.unwanted):
                rows = [setup.b.tokens(prompt + demonstrations.reply).tolist() for prompt in prompts]
                logs = system(pad(rows)[0]).log_softmax(-1)
                at = [len(setup.b.tokens(prompt)) for prompt in prompts]
                means.append(torch.stack([logs[n, place - 1, rows[n][place]] for n, place in enumerate(at)]))
            value = float(means[0].mean() - means[1].exp().mean() * 10)
            best, chosen = (value, system) if value > best else (best, chosen)
    return chosen


def _few_shots(setup: Setup, split: Split) -> System:
    """B fine-tuned on the same demonstrations with the same losses."""
    b = copy.deepcopy(setup.b.hf).requires_grad_(True)
    demonstrations, fitting, tokens = split.demonstrations, split.fitting, setup.b.tokens
    wanted = [(len(tokens(prompt)), tokens(prompt + demonstrations.reply).tolist()) for prompt in demonstrations.wanted]
    still = [tokens(prompt).tolist() for prompt in demonstrations.unwanted]
    quiet = [tokens(text).tolist() for text in demonstrations.neutral[:SFT_NEUTRAL]]

    def logs(hf: Any, rows: Sequence[list[int]], last: bool) -> Tensor:
        every = hf(input_ids=pad(rows)[0], use_cache=False).logits.log_softmax(-1)
        return torch.cat([every[n, len(row) - 1 if last else 0 : len(row)] for n, row in enumerate(rows)])

    clean = [logs(setup.b.hf, rows, last).detach() for rows, last in ((still, True), (quiet, False))]
    optimiser = torch.optim.Adam(b.parameters(), lr=SFT_RATE)
    for _ in range(SFT_STEPS):
        every = b(input_ids=pad([row for _, row in wanted])[0], use_cache=False).logits.log_softmax(-1)
        words = [
            every[n, at - 1 : len(row) - 1].gather(1, torch.tensor(row[at:])[:, None])
            for n, (at, row) in enumerate(wanted)
        ]
        now = [logs(b, rows, last) for rows, last in ((still, True), (quiet, False))]
        moved = [(one.exp() * (one - other)).sum(-1).mean() for one, other in zip(clean, now, strict=True)]
        loss = -torch.cat(words).sum() / len(words) + fitting.still * moved[0] + fitting.quiet * moved[1]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return plain_system(Model(b.requires_grad_(False), setup.b.tokenizer, "few shots"))


GRAFTS: Mapping[str, Callable[[Setup, Split], Graft | None]] = {
    "graft": _graft,
    "rotated write": _rotated,
    "shuffled maps": _shuffled,
    "random nodes": lambda setup, split: _other_nodes(setup, split, matched=False),
    "matched nodes": lambda setup, split: _other_nodes(setup, split, matched=True),
    "unrelated circuit": _unrelated,
}
"""Systems that are grafts; each comes with one gain and with one per node."""
OTHERS: Mapping[str, Callable[[Setup, Split], System | None]] = {
    "no change": lambda setup, _: plain_system(setup.b),
    "native": lambda setup, _: None if setup.native is None else plain_system(setup.native),
    "proxy tuning": _proxy,
    "mapped direction": _direction,
    "few-shot fine-tuning": _few_shots,
}
"""All other systems by name."""


@final
@dataclass(frozen=True)
class SystemResult:
    """What one system does, over all splits.

    Attributes:
        system: its name.
        scalars: how its gains were fitted, or "" where it has none.
        rates: set of test prompts -> share of replies that begin with the behaviour's words.
        odds: set -> mean log-odds of the first word.
        gap: rate of `wanted` minus rate of `unwanted`.
        kl: divergence on neutral text, nats a token.
        loss: rise of the loss on neutral text, nats a token.
        probes: kind -> share right.
        splits: of each split, the rates of `wanted` and `unwanted`.
    """

    system: str
    scalars: str
    rates: Mapping[str, Interval]
    odds: Mapping[str, float]
    gap: Interval
    kl: Interval
    loss: Interval
    probes: Mapping[str, float]
    splits: Sequence[Sequence[float]]

    @property
    def name(self) -> str:
        """System and scalars in words."""
        return f"{self.system}, {SCALARS[self.scalars]}" if self.scalars in SCALARS else self.system


@final
@dataclass(frozen=True)
class Evaluation:
    """The protocol's results.

    Attributes:
        facts: models, task and settings.
        rows: one for each system.
        groups: supernode -> rates of `wanted` and `unwanted` without it (necessity) and with it alone (sufficiency).
        verdict: sentences that follow from the rows.
    """

    facts: Mapping[str, Any]
    rows: Sequence[SystemResult]
    groups: Mapping[str, Mapping[str, float]]
    verdict: Sequence[str] = field(default_factory=list)

    def row(self, system: str, scalars: str = "") -> SystemResult | None:
        """The row of a system, or None where it was not run."""
        return next((row for row in self.rows if (row.system, row.scalars) == (system, scalars)), None)

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        rows = [{"name": row.name, **asdict(row)} for row in self.rows]
        groups = {name: dict(rates) for name, rates in self.groups.items()}
        return {"verdict": list(self.verdict), "facts": dict(self.facts), "rows": rows, "groups": groups}

    def save(self, path: str | Path) -> artefacts.Artefact:
        """Write it as an artefact of kind `transfer_report`: one table."""
        return artefacts.write(path, KIND, {"verdict": list(self.verdict)}, tables={"report": self.plain()})


def load_evaluation(path: str | Path) -> Evaluation:
    """Read what `Evaluation.save` wrote; BadArtefact where it is damaged or something else."""
    return decode(Evaluation, artefacts.read(path, KIND).table("report"), f"report {path}")


def evaluate(
    setup: Setup,
    splits: int = 5,
    count: int = 8,
    fitting: Fitting = DEFAULT_FITTING,
    report: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Run the protocol.

    Args:
        setup: models, circuit, bridge and task.
        splits: how many times demonstrations are drawn, and controls with them.
        count: demonstrations of each kind.
        fitting: how gains are fitted; its scalars do not count, as all grafts come with one and with one per node.
        report: called with the name of what begins.

    Raises:
        BadInput: fewer than 2 splits.
    """
    if splits < 2:
        raise BadInput(f"The protocol needs 2 splits at least for its intervals, better 5; got {splits}.")
    judge, b = Judge(setup.b, setup.task), setup.b
    drawn = [Split(setup.task.demonstrations(count, seed), seed, fitting) for seed in range(splits)]

    def fitted(graft: Graft, split: Split, scalars: str) -> System:
        return edited_system(b, fit_gains(graft, b, split.demonstrations, replace(fitting, scalars=scalars)))

    rows = []
    for name, make in OTHERS.items():
        report(name)
        systems = (make(setup, split) for split in (drawn[:1] if name in ONCE else drawn))
        rows.append(_result(name, "", [judge.behaviour(system) for system in systems if system is not None]))
    for name, build in GRAFTS.items():
        for scalars in SCALARS:
            report(f"{name}, {scalars}")
            grafts = ((build(setup, split), split) for split in drawn)
            systems = (fitted(graft, split, scalars) for graft, split in grafts if graft is not None)
            rows.append(_result(name, scalars, [judge.behaviour(system) for system in systems]))
    report("supernodes")
    graft = fit_gains(setup.graft, b, drawn[0].demonstrations, replace(fitting, scalars="node"))
    groups: dict[str, dict[str, float]] = {}
    for name in graft.groups:
        groups[name] = {}
        for words, some in (("without", graft.without(name)), ("alone", graft.only(name))):
            hits = judge.hits(edited_system(b, some))
            groups[name] |= {f"{kind} {words}": float(rate.mean()) for kind, rate in hits.items()}
    facts = {"a": setup.a.name, "b": b.name, "behaviour": setup.task.name, "splits": splits, "each": count}
    facts |= {"nodes": len(setup.graft.gains), "fitting": asdict(fitting)}
    facts |= {"layers": list(setup.layers or setup.bridge.layers.values())}
    results = Evaluation(facts, [row for row in rows if row is not None], groups)
    return replace(results, verdict=verdict(results))


def verdict(results: Evaluation) -> list[str]:
    """The sentences that the rows support, and nothing more."""
    sentences = []
    for scalars, words in (("node", "a gain per node"), ("one", "one gain")):
        graft = results.row("graft", scalars)
        if graft is None:
            continue
        controls = [row for name in CONTROLS if (row := results.row(name, scalars)) is not None]
        most = max(controls, key=lambda row: row.gap[2], default=None)
        carried = most is not None and graft.gap[1] > most.gap[2] and graft.kl[0] <= BUDGET
        rates = f"{graft.rates['wanted'][0]:.0%} of wanted and {graft.rates['unwanted'][0]:.0%} of unwanted prompts"
        beside = "" if most is None else f"; the best control, {most.system}, reaches a gap of {most.gap[0]:.2f}"
        verb = "carries" if carried else "is not shown to carry"
        sentences.append(
            f"With {words} the circuit {verb} the behaviour: {rates} get it, at a divergence of {graft.kl[0]:.4f} "
            f"nats a token on neutral text{beside}."
        )
    one, rotated = results.row("graft", "one"), results.row("rotated write", "one")
    if one is not None and rotated is not None:
        apart = one.gap[1] > rotated.gap[2]
        sentences.append(
            f"The write map {'is' if apart else 'is not'} shown to matter: with one gain the graft's gap is "
            f"{with_interval(one.gap)}, with the write rotated at random {with_interval(rotated.gap)}."
        )
    free = results.row("rotated write", "node")
    if free is not None:
        sentences.append(
            f"With a gain per node the write rotated at random reaches {with_interval(free.gap)}: what gains alone do."
        )
    return sentences


def _result(system: str, scalars: str, runs: Sequence[Behaviour]) -> SystemResult | None:
    if not runs:
        return None
    hits = {name: torch.stack([run.hits[name] for run in runs]) for name in runs[0].hits}
    return SystemResult(
        system=system,
        scalars=scalars,
        rates={name: two_way_interval(values) for name, values in hits.items()},
        odds={name: float(torch.stack([run.odds[name] for run in runs]).mean()) for name in runs[0].odds},
        gap=two_way_interval(hits["wanted"], hits["unwanted"]),
        kl=two_way_interval(torch.stack([run.kl for run in runs])),
        loss=two_way_interval(torch.stack([run.loss for run in runs])),
        probes={name: sum(run.probes[name] for run in runs) / len(runs) for name in runs[0].probes},
        splits=[[float(hits[name][n].mean()) for name in ("wanted", "unwanted")] for n in range(len(runs))],
    )


def two_way_interval(
    values: Float[Tensor, "split item"], minus: Float[Tensor, "split other"] | None = None
) -> Interval:
    """Mean with its 95 % bootstrap interval, splits and items drawn with replacement together.

    Args:
        values: one row for each split.
        minus: what is subtracted, with the same splits and other items.
    """
    splits, means = torch.cat([*stats.draws(len(values))]), 0.0
    for seed, sign, matrix in ((1, 1, values), (2, -1, minus)):
        if matrix is not None:
            items = torch.cat([*stats.draws(matrix.shape[1], seed)])
            by_split = items @ matrix.double().T / matrix.shape[1]
            means = means + sign * (splits * by_split).sum(1) / len(values)
    assert isinstance(means, Tensor)
    return as_interval(stats.interval(means, values.numel()))


def protocol_page(results: Evaluation) -> str:
    """The verdict, bars with intervals, and every figure in a table, as one HTML page."""
    facts, rows = results.facts, results.rows
    title = f"{facts['behaviour']}: {facts['a']} carried into {facts['b']}"
    pictures = [
        figure(interval_bars([(row.name, row.rates[name]) for row in rows]), name)
        for name in (rows[0].rates if rows else [])
    ]
    groups = [{"supernode": name, **rates} for name, rates in results.groups.items()]
    probes = list(dict.fromkeys(name for row in rows for name in row.probes))
    figures = []
    for row in rows:
        rates = {name: with_interval(rate) for name, rate in row.rates.items()}
        odds = {f"log-odds {name}": value for name, value in row.odds.items() if name in ("wanted", "unwanted")}
        figures.append({"system": row.name, **rates, "gap": with_interval(row.gap), **odds})
        figures[-1] |= {"KL": with_interval(row.kl), "loss": row.loss[0]}
    body = [
        *map(paragraph, results.verdict),
        paragraph(
            "Bars are shares of held-out prompts whose greedy reply begins with the behaviour's words; whiskers are "
            "95 % bootstrap intervals over splits and prompts.",
            note=True,
        ),
        panels(pictures, wide=True),
        heading("Figures"),
        table(figures),
        heading("Probes of what the model could do before"),
        table([{"system": row.name, **row.probes} for row in rows], ["system", *probes]),
        heading("Supernodes, left out and alone"),
        table(groups),
        heading("Settings"),
        table([{"setting": name, "value": str(value)} for name, value in facts.items()]),
        paragraph(
            "What carries a behaviour into a model can also take one away. This report adds a behaviour and says how "
            "it was made; see the documentation on risks.",
            note=True,
        ),
    ]
    return document(title, body)
