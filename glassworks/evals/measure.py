"""One table for a scope: what every coder loses alone, and what all of a set lose together."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from glassworks.coders import Coder, Entry, Scope
from glassworks.errors import BadInput
from glassworks.evals.fidelity import Meter
from glassworks.evals.losses import Documents, Losses, Marks
from glassworks.evals.replaced import separable
from glassworks.evals.strata import strata
from glassworks.evals.trials import Recovered, Trial
from glassworks.harvest import Activations, Contexts, Reading, Recording, record
from glassworks.models import Model

HELD = 1 << 26
"""Activations that are in memory at a time: 256 MiB."""
ROWS = 8192
REPLACEMENT = "replacement"


def measure(
    model: Model,
    scope: Scope,
    documents: Documents,
    answers: Marks | None = None,
    names: Iterable[str] | None = None,
    alone: bool = True,
) -> dict[str, Any]:
    """Measure a scope on text that it was not trained on.

    Args:
        model: the scope's model.
        scope: coders of any kind, on the model's device.
        documents: token ids each.
        answers: which tokens of each document are answers, measured apart as well.
        names: of the coders to measure, by default all.
        alone: whether to run the model with every coder by itself in place.

    Returns:
        Plain values: `coders` (name -> see `Fidelity`, and `loss`: see `Recovered`), `sets` (coders that stand in at
        all layers at once, the scope's replacement among them), and of the replacement again `recovered` and
        `recovered_answers` (share of the next-token loss that it recovers against mean ablation) and `losses`.
    """
    chosen = {name: scope[name] for name in (scope if names is None else names)}
    kept = trained(model, scope, documents)
    meters = fidelities(chosen, recordings(model, chosen.values(), documents, kept))
    found = described(chosen, meters)
    means = {site: meter.mean(site).float() for meter in meters.values() for site in meter.writes}
    trials = {name: Trial.alone(name, coder, means) for name, coder in chosen.items()} if alone else {}
    together = {name: Trial(name, [chosen[e] for e in each], means) for name, each in sets(scope, chosen).items()}
    runs = {name: run for trial in (*trials.values(), *together.values()) for name, run in trial.replacements.items()}
    if not runs:
        return found
    losses = Losses(model, runs, documents, answers, kept)
    for name, trial in trials.items():
        found["coders"][name]["loss"] = plain(trial.result(losses))
    found["sets"] = {name: plain(trial.result(losses)) for name, trial in together.items()}
    return found | (_headline(together[REPLACEMENT], losses, answers) if REPLACEMENT in together else {})


def described(coders: Mapping[str, Coder], meters: Mapping[str, Meter]) -> dict[str, Any]:
    """Plain values of what meters found: `coders` by name, with the sites of each."""
    return {
        "coders": {
            name: {
                "reads": [site.name for site in coder.reads],
                "writes": [site.name for site in coder.writes],
                **meters[name].result().plain(),
            }
            for name, coder in coders.items()
        }
    }


def trained(model: Model, scope: Scope, documents: Documents) -> Marks:
    """Which positions of documents a scope's coders were trained on; where none is, BadInput."""
    chats = getattr(model.tokenizer, "chat_template", None) is not None
    names = tuple(each for each in scope.untrained if each != "template" or chats)
    reading = Reading(model.context_length, untrained=names)
    contexts = list(Contexts(model, documents, reading))
    if len(contexts) != len(documents):
        raise BadInput(f"A document is empty or longer than the model's {model.context_length} tokens; cut it.")
    if not any(any(each.kept) for each in contexts):
        raise BadInput(f"All tokens are positions that the scope was not trained on ({', '.join(names)}); give more.")
    return [each.kept for each in contexts]


def recordings(
    model: Model, coders: Iterable[Coder], documents: Documents, kept: Marks, held: int = HELD
) -> Iterator[Recording]:
    """Activations at all sites of coders, so many documents at a time that they fit.

    Args:
        model: the model.
        coders: what will read and be compared with them.
        documents: token ids each.
        kept: which positions of each are recorded.
        held: numbers in memory at a time, about.
    """
    sites = sorted({site for coder in coders for site in (*coder.reads, *coder.writes)})
    most, run, start = max(1, held // (len(sites) * model.d_model)), 0, 0
    for number, document in enumerate(documents):
        run += len(document)
        if run >= most or number == len(documents) - 1:
            part = range(start, number + 1)
            found = record(model, [documents[each] for each in part], sites)
            rows = torch.tensor([mark for each in part for mark in kept[each]])
            yield Recording(
                found.tokens[rows],
                found.documents[rows] + start,
                found.positions[rows],
                {site: values[rows] for site, values in found.values.items()},
                found.heads,
            )
            run, start = 0, number + 1


def fidelities(
    coders: Mapping[str, Coder], parts: Iterable[Activations], most: int | None = None, batch: int = ROWS
) -> dict[str, Meter]:
    """Meters of several coders, fed with the same activations, each row read once.

    Args:
        coders: by name.
        parts: activations at all of their sites: a store, a recording, or several.
        most: rows of each part, the first ones; by default all.
        batch: rows at a time.
    """
    meters: dict[str, Meter] = {}
    device = next((weight.device for coder in coders.values() for weight in coder.parameters()), "cpu")
    for part in parts:
        meters = meters or {name: _meter(coder, part) for name, coder in coders.items()}
        groups = strata(part.tokens[:most], part.documents[:most], part.positions[:most])
        sites = sorted({site.name for coder in coders.values() for site in (*coder.reads, *coder.writes)})
        for start in range(0, len(groups["document"]), batch):
            here = slice(start, min(start + batch, len(groups["document"])))
            values = {site: part.read(site, here).to(device) for site in sites}
            for name, coder in coders.items():
                meters[name].measure(coder, values, {each: numbers[here] for each, numbers in groups.items()})
    return meters


def _meter(coder: Coder, part: Activations) -> Meter:
    """A meter around the means that are known of the first part."""
    writes = [site.name for site in coder.writes]
    return Meter(writes, coder.d_latent, {site: part.statistics(site).mean for site in writes})


def sets(scope: Scope, names: Iterable[str]) -> dict[str, list[str]]:
    """The sets of a scope's coders that can stand in at once: alike in all but their layer.

    Args:
        scope: its replacement is the set `replacement`, where all of it is among the names.
        names: which coders count.
    """
    groups: dict[str, list[Entry]] = {}
    names = set(names)
    for entry in scope.entries:
        if entry.name in names:
            groups.setdefault(_likeness(entry), []).append(entry)
    found = {REPLACEMENT: scope.replacement} if scope.replacement and names >= set(scope.replacement) else {}
    for likeness, entries in groups.items():
        members = [entry.name for entry in entries]
        if sorted(members) not in map(sorted, found.values()) and _at_once(scope, entries):
            found[likeness] = members
    return found


def plain(found: Recovered) -> dict[str, Any]:
    """JSON values of what was recovered."""
    facts = asdict(found) | {"recovered": found.share, "recovered_of_zero": found.share_of_zero}
    return {name: value for name, value in facts.items() if value != {}}


def _likeness(entry: Entry) -> str:
    sites = dict.fromkeys(site.kind for site in (entry.reads[0], entry.writes[0]))
    return " ".join(word for word in (entry.kind, *sites, entry.width, entry.l0, *entry.tags) if word)


def _at_once(scope: Scope, entries: Sequence[Entry]) -> bool:
    writes = [site for entry in entries for site in entry.writes]
    causal = all(len(separable(scope[entry.name])) == 1 for entry in entries)
    return len(entries) > 1 and len(writes) > 1 and len(set(writes)) == len(writes) and causal


def _headline(trial: Trial, losses: Losses, answers: Marks | None) -> dict[str, Any]:
    whole = trial.result(losses)
    found: dict[str, Any] = {"recovered": whole.share, "losses": {"all": plain(whole)}}
    if answers is not None:
        ends = trial.result(losses, losses.answers())
        found |= {"recovered_answers": ends.share}
        found["losses"]["answers"] = plain(ends)
    return found
