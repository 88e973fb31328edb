"""Evaluate: the whole protocol for a transferred circuit, with every control, and a verdict that follows from it.

Demonstrations are drawn anew for each split; every interval is a bootstrap over splits and test items together. This
module must not know how systems are made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks import artefacts
from glassworks.errors import BadArtefact, BadInput
from glassworks.transfer.graft import Fitting, Graft
from glassworks.transfer.protocol.behaviour import Behaviour, Judge, edited
from glassworks.transfer.protocol.systems import GRAFTS, OTHERS, Setup, Trial

KIND = "transfer_report"
RESAMPLES = 2000
ONCE = ("no change", "native", "proxy tuning")
"""Systems that no demonstration enters."""
SCALARS = ("one", "node")
CONTROLS = ("random nodes", "matched nodes", "shuffled maps", "unrelated circuit")
BUDGET = 0.01
PLAIN = Fitting()
"""The settings when nothing else is said."""
Interval = tuple[float, float, float]
"""Mean, and the ends of its 95 % interval."""


@final
@dataclass(frozen=True)
class Row:
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
        words = {"one": ", one gain", "node": ", a gain a node"}
        return self.system + words.get(self.scalars, "")


@final
@dataclass(frozen=True)
class Evaluation:
    """The protocol's results.

    Attributes:
        facts: models, task and settings.
        rows: one a system.
        groups: supernode -> rates of `wanted` and `unwanted` without it (necessity) and with it alone (sufficiency).
        verdict: sentences that follow from the rows.
    """

    facts: Mapping[str, Any]
    rows: Sequence[Row]
    groups: Mapping[str, Mapping[str, float]]
    verdict: Sequence[str] = field(default_factory=list)

    def row(self, system: str, scalars: str = "") -> Row | None:
        """The row of a system, or None where it was not run."""
        return next((each for each in self.rows if (each.system, each.scalars) == (system, scalars)), None)

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        rows = [{"name": each.name, **asdict(each)} for each in self.rows]
        groups = {name: dict(each) for name, each in self.groups.items()}
        return {"verdict": list(self.verdict), "facts": dict(self.facts), "rows": rows, "groups": groups}

    def save(self, path: str | Path) -> artefacts.Artefact:
        """Write it as an artefact of kind `transfer_report`: one table."""
        return artefacts.write(path, KIND, {"verdict": list(self.verdict)}, tables={"report": self.plain()})


def load_evaluation(path: str | Path) -> Evaluation:
    """Read what `Evaluation.save` wrote; BadArtefact where it is damaged or something else."""
    plain = artefacts.read(path, KIND).table("report")
    try:
        rows = [_read_row(each) for each in plain["rows"]]
        return Evaluation(plain["facts"], rows, plain["groups"], plain["verdict"])
    except (KeyError, TypeError) as error:
        raise BadArtefact(f"The report {path} lacks or misstates {error}; evaluate again.") from error


def _read_row(plain: Mapping[str, Any]) -> Row:
    spans: dict[str, Any] = {name: tuple(plain[name]) for name in ("gap", "kl", "loss")}
    spans["rates"] = {name: tuple(each) for name, each in plain["rates"].items()}
    return Row(**{name: value for name, value in plain.items() if name != "name"} | spans)


def evaluate(
    setup: Setup,
    splits: int = 5,
    each: int = 8,
    how: Fitting = PLAIN,
    report: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Run the protocol.

    Args:
        setup: models, circuit, bridge and task.
        splits: how many times demonstrations are drawn, and controls with them.
        each: demonstrations of each kind.
        how: how gains are fitted; its scalars do not count, as all grafts come with one and with one a node.
        report: called with the name of what begins.

    Raises:
        BadInput: fewer than 2 splits.
    """
    if splits < 2:
        raise BadInput(f"The protocol needs 2 splits at least for its intervals, better 5; got {splits}.")
    judge = Judge(setup.b, setup.task)
    trials = [Trial(setup.task.demonstrations(each, seed), seed, how) for seed in range(splits)]
    rows = []
    for name, make in OTHERS.items():
        report(name)
        some = trials[:1] if name in ONCE else trials
        systems = (make(setup, trial) for trial in some)
        rows.append(_row(name, "", [judge.behaviour(one) for one in systems if one is not None]))
    for name, build in GRAFTS.items():
        for scalars in SCALARS:
            report(f"{name}, {scalars}")
            systems = (build(setup, trial, scalars) for trial in trials)
            rows.append(_row(name, scalars, [judge.behaviour(one) for one in systems if one is not None]))
    report("supernodes")
    groups = _groups(setup, judge, trials[0].fitted(setup.graft, setup.b, "node"))
    kept = [row for row in rows if row is not None]
    facts = {"a": setup.a.name, "b": setup.b.name, "behaviour": setup.task.name, "splits": splits, "each": each}
    facts |= {"nodes": len(setup.graft.gains), "fitting": asdict(how)}
    facts |= {"layers": list(setup.layers or setup.bridge.layers.values())}
    found = Evaluation(facts, kept, groups)
    return Evaluation(facts, kept, groups, verdict(found))


def verdict(found: Evaluation) -> list[str]:
    """What the rows allow to say, and nothing more."""
    said = []
    for scalars, words in (("node", "a gain a node"), ("one", "one gain")):
        graft = found.row("graft", scalars)
        if graft is None:
            continue
        best = [row for name in CONTROLS if (row := found.row(name, scalars)) is not None]
        most = max(best, key=lambda row: row.gap[2], default=None)
        carried = most is not None and graft.gap[1] > most.gap[2] and graft.kl[0] <= BUDGET
        rates = f"{graft.rates['wanted'][0]:.0%} of wanted and {graft.rates['unwanted'][0]:.0%} of unwanted prompts"
        beside = "" if most is None else f"; the best control, {most.system}, reaches a gap of {most.gap[0]:.2f}"
        verb = "carries" if carried else "is not shown to carry"
        said.append(
            f"With {words} the circuit {verb} the behaviour: {rates} get it, at a divergence of {graft.kl[0]:.4f} "
            f"nats a token on neutral text{beside}."
        )
    one, turned = found.row("graft", "one"), found.row("rotated write", "one")
    if one is not None and turned is not None:
        apart = one.gap[1] > turned.gap[2]
        said.append(
            f"The write map {'is' if apart else 'is not'} shown to matter: with one gain the graft's gap is "
            f"{_told(one.gap)}, with the write turned at random {_told(turned.gap)}."
        )
    free = found.row("rotated write", "node")
    if free is not None:
        said.append(f"With a gain a node the write turned at random reaches {_told(free.gap)}: so much gains alone do.")
    return said


def _told(interval: Interval) -> str:
    return f"{interval[0]:.2f} [{interval[1]:.2f}, {interval[2]:.2f}]"


def _row(system: str, scalars: str, found: Sequence[Behaviour]) -> Row | None:
    if not found:
        return None
    hits = {name: torch.stack([each.hits[name] for each in found]) for name in found[0].hits}
    odds = {name: float(torch.stack([each.odds[name] for each in found]).mean()) for name in found[0].odds}
    probes = {name: sum(each.probes[name] for each in found) / len(found) for name in found[0].probes}
    splits = [[float(hits[name][n].mean()) for name in ("wanted", "unwanted")] for n in range(len(found))]
    return Row(
        system=system,
        scalars=scalars,
        rates={name: interval(each) for name, each in hits.items()},
        odds=odds,
        gap=interval(hits["wanted"], hits["unwanted"]),
        kl=interval(torch.stack([each.kl for each in found])),
        loss=interval(torch.stack([each.loss for each in found])),
        probes=probes,
        splits=splits,
    )


def interval(values: Float[Tensor, "split item"], minus: Float[Tensor, "split other"] | None = None) -> Interval:
    """Mean with its 95 % bootstrap interval, splits and items drawn with replacement together.

    Args:
        values: one row a split.
        minus: what is taken off, with the same splits and other items.
    """
    generator = torch.Generator().manual_seed(0)
    splits = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)
    means = sum(
        sign * _resampled(each.double(), splits, generator)
        for sign, each in ((1, values), (-1, minus))
        if each is not None
    )
    assert isinstance(means, Tensor)
    low, high = means.quantile(means.new_tensor([0.025, 0.975])).tolist()
    return float(values.double().mean() - (0.0 if minus is None else minus.double().mean())), low, high


def _resampled(values: Tensor, splits: Tensor, generator: torch.Generator) -> Float[Tensor, " resample"]:
    count = values.shape[1]
    drawn = torch.randint(count, (RESAMPLES, count), generator=generator)
    weights = torch.zeros(RESAMPLES, count, dtype=values.dtype)
    weights.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=values.dtype))
    by_split = values @ weights.T / count
    return by_split.gather(0, splits.T).mean(0)


def _groups(setup: Setup, judge: Judge, graft: Graft) -> dict[str, dict[str, float]]:
    """Each supernode left out, and each alone."""
    found = {}
    for name in graft.groups:
        rates: dict[str, float] = {}
        for words, some in (("without", graft.without(name)), ("alone", graft.only(name))):
            hits = judge.hits(edited(setup.b, some))
            rates |= {f"{kind} {words}": float(each.mean()) for kind, each in hits.items()}
        found[name] = rates
    return found
