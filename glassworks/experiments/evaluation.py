"""Evaluation: what every coder of a scope loses alone, and what all of a set lose together; one table, one page.

The share of the loss that coders recover is (ablated - replaced) / (ablated - true), where ablated means that every
replaced site has its mean, or zero: 1 is as good as the model, 0 as bad as the constant.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glassworks.coders import Coder, Entry, Scope
from glassworks.errors import BadInput
from glassworks.experiments.cases import Batch, Case
from glassworks.experiments.experiment import Experiment
from glassworks.experiments.fidelity import DECADES, STRATA, Meter, strata
from glassworks.experiments.interventions import Coders, Constant, Intervention
from glassworks.experiments.metrics import Metric, kl, loss
from glassworks.experiments.table import Mean, Table
from glassworks.harvest import Activations, Contexts, Reading, Recording, pad, record
from glassworks.models import Model
from glassworks.pages import Point, bars, figure, heading, panels, section, table
from glassworks.pages import document as html_document
from glassworks.sites import Site

HELD = 1 << 26
"""Activations that are in memory at a time: 256 MiB."""
ROWS = 8192
REPLACEMENT = "replacement"
BUCKETS = 64
"""Strata of a grouping at the most."""
COLUMNS = ("l0", "fvu", "median", "cosine", "dead", "dense", "recovered", "kl", "tokens")
LOST = {"FVU": "fvu", "KL, nats a token": "kl"}
Documents = Sequence[Sequence[int]]
Marks = Sequence[Sequence[bool]]


def document_cases(model: Model, scope: Scope, documents: Documents) -> list[Case]:
    """Cases of documents that keep the positions on which a scope's coders were trained; where none is, BadInput."""
    kept = trained(model, scope, documents)
    return [Case(list(document), kept=marks) for document, marks in zip(documents, kept, strict=True)]


def evaluate(
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
        Plain values: `coders` (name -> see `Fidelity`, and `loss`: see docs/evaluation.md), `sets` (coders that
        replace activations at all layers at once, the scope's replacement among them), and of the replacement again
        `recovered` and `recovered_answers` (share of the next-token loss that it recovers against mean ablation) and
        `losses`.
    """
    chosen = {name: scope[name] for name in (scope if names is None else names)}
    cases = document_cases(model, scope, documents)
    kept = [case.kept or () for case in cases]
    meters = fidelities(chosen, recordings(model, chosen.values(), documents, kept))
    found = fidelity_values(chosen, meters)
    means = {site: meter.mean(site).float() for meter in meters.values() for site in meter.writes}
    # What is replaced at once: (coders, groups of write sites); figures are means over the groups.
    runs: dict[str, tuple[list[Coder], list[tuple[Site, ...]]]] = {}
    if alone:
        runs |= {f"{name} alone": ([coder], separable(coder)) for name, coder in chosen.items()}
    together = {name: [chosen[each] for each in group] for name, group in replacement_sets(scope, chosen).items()}
    for name, coders in together.items():
        runs[name] = coders, [tuple(site for coder in coders for site in coder.writes)]
    if not runs:
        return found
    arms: dict[str, Intervention] = {}
    for name, (coders, groups) in runs.items():
        for sites in groups:
            arms[_arm(name, sites)] = Coders(_arm(name, sites), coders, sites)
            rows = {site: means[site.name] for site in sites}
            arms[_arm("mean", sites)] = Constant(_arm("mean", sites), rows)
            arms[_arm("zero", sites)] = Constant(_arm("zero", sites), {site: 0 * row for site, row in rows.items()})
    metrics = [loss(), kl(), *_stratified(documents)]
    if answers is not None:
        marks = {str(number): row for number, row in enumerate(answers)}

        def marked(batch: Batch) -> Tensor:
            return pad([[int(mark) for mark in marks[case.name]] for case in batch.cases])[0].to(batch.ids.device)

        metrics += [loss(marks=marked, name="loss of answers"), kl(marks=marked, name="kl of answers")]
    measured = Experiment(model, cases, list(arms.values()), metrics).run()
    if alone:
        for name in chosen:
            found["coders"][name]["loss"] = _losses(measured, f"{name} alone", runs[f"{name} alone"][1])
    found["sets"] = {name: _losses(measured, name, runs[name][1]) for name in together}
    if REPLACEMENT in together:
        whole = found["sets"][REPLACEMENT]
        found |= {"recovered": whole["recovered"], "losses": {"all": whole}}
        if answers is not None:
            ends = _losses(measured, REPLACEMENT, runs[REPLACEMENT][1], " of answers")
            found |= {"recovered_answers": ends["recovered"]}
            found["losses"]["answers"] = ends
    return found


def separable(coder: Coder) -> list[tuple[Site, ...]]:
    """The write sites of a coder, in the groups that it can replace at once.

    All together, unless it reads what lies after a site that it writes: then what it writes further up would undo
    what it did below, and every site is measured alone.
    """
    return [(site,) for site in coder.writes] if Coders("", [coder]).reads else [tuple(coder.writes)]


def _arm(name: str, sites: Sequence[Site]) -> str:
    return f"{name}: {' '.join(site.name for site in sites)}"


def _stratified(documents: Documents) -> list[Metric]:
    """Losses and divergences by position and by frequency of the predicted token.

    Only totals are read, so the sums of a batch all go to its first row.
    """
    counts = torch.bincount(torch.tensor([token for ids in documents for token in ids]))

    def metric(name: str, number: int) -> Metric:
        def measure(batch: Batch) -> tuple[Tensor, Tensor]:
            real = batch.place[1:] < batch.lengths[:, None]
            values = batch.scores[number][:, :-1][real].cpu()
            place = batch.place[1:].expand_as(real)[real].cpu()
            groups = strata(batch.ids[:, 1:][real].cpu(), place, place, counts)
            totals = torch.zeros(2, len(STRATA) * BUCKETS, dtype=torch.float64)
            for at, grouping in enumerate(STRATA):
                index = groups[grouping] + at * BUCKETS
                totals.index_add_(1, index, torch.stack([values, torch.ones_like(values)]))
            sums = torch.zeros(2, len(batch.cases), len(STRATA) * BUCKETS, dtype=torch.float64)
            sums[:, 0] = totals
            return sums[0] / sums[1].clamp(min=1), sums[1]

        return Metric(name, measure, at=at)

    def at(k: int) -> str:
        grouping = list(STRATA)[k // BUCKETS]
        return f"{grouping} {k % BUCKETS}"

    return [metric("loss by stratum", 0), metric("kl by stratum", 1)]


def _losses(measured: Table, name: str, groups: Sequence[tuple[Site, ...]], of: str = "") -> dict[str, Any]:
    """The figures of one set of replaced sites; all of them are means over its groups."""
    arms = {kind: [_arm(word, sites) for sites in groups]
            for kind, word in (("replaced", name), ("ablated", "mean"), ("zeroed", "zero"))}  # fmt: skip
    arms["true"] = ["clean"]

    def averaged(mean: Mean, metric: str, kind: str) -> Tensor:
        return torch.stack([mean(metric + of, arm) for arm in arms[kind]]).mean(0)

    def recovered(mean: Mean, floor: str = "ablated") -> Tensor:
        true, replaced, ablated = (averaged(mean, "loss", kind) for kind in ("true", "replaced", floor))
        return (ablated - replaced) / (ablated - true)

    figures = {
        kind: lambda m, kind=kind: averaged(m, "loss", kind) for kind in ("true", "replaced", "ablated", "zeroed")
    }
    figures |= {"kl": lambda m: averaged(m, "kl", "replaced"), "kl_ablated": lambda m: averaged(m, "kl", "ablated")}
    figures |= {"kl_zeroed": lambda m: averaged(m, "kl", "zeroed"), "recovered": recovered}
    figures |= {"recovered_of_zero": lambda m: recovered(m, "zeroed")}
    estimates = measured.estimates(figures)
    facts: dict[str, Any] = {key: estimates[key].value for key in figures if not key.startswith("recovered")}
    weights = measured.where(metric="loss" + of, intervention="clean")["weight"]
    facts["tokens"] = int(weights.sum())
    if not of:
        if estimates["kl"].clusters > 1:
            names = {"share": "recovered", "kl": "kl", "replaced": "replaced"}
            facts["intervals"] = {key: estimates[figure].ends for key, figure in names.items()}
        facts["strata"] = _strata(measured, arms["replaced"])
    return facts | {key: estimates[key].value for key in ("recovered", "recovered_of_zero")}


def _strata(measured: Table, replaced: Sequence[str]) -> dict[str, dict[str, dict[str, int | float]]]:
    found: dict[str, dict[str, dict[str, int | float]]] = {}
    clean = measured.where(metric="loss by stratum", intervention="clean")
    places = {at: (at.split()[0], int(at.split()[1])) for (at,) in clean.unique("at")}
    for at, (grouping, bucket) in sorted(places.items(), key=lambda item: (list(STRATA).index(item[1][0]), item[1][1])):
        found.setdefault(grouping, {})[STRATA[grouping](int(bucket))] = {
            "tokens": int(clean["weight"][clean["at"] == at].sum()),
            "true": measured.value("loss by stratum", at=at),
            "replaced": sum(measured.value("loss by stratum", arm, at) for arm in replaced) / len(replaced),
            "kl": sum(measured.value("kl by stratum", arm, at) for arm in replaced) / len(replaced),
        }
    return found


def fidelity_values(coders: Mapping[str, Coder], meters: Mapping[str, Meter]) -> dict[str, Any]:
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


def replacement_sets(scope: Scope, names: Iterable[str]) -> dict[str, list[str]]:
    """The sets of a scope's coders that can replace activations at once: alike in all but their layer.

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
        grouped = [entry.name for entry in entries]
        if sorted(grouped) not in map(sorted, found.values()) and _at_once(scope, entries):
            found[likeness] = grouped
    return found


def _likeness(entry: Entry) -> str:
    sites = dict.fromkeys(site.kind for site in (entry.reads[0], entry.writes[0]))
    return " ".join(word for word in (entry.kind, *sites, entry.width, entry.l0, *entry.tags) if word)


def _at_once(scope: Scope, entries: Sequence[Entry]) -> bool:
    writes = [site for entry in entries for site in entry.writes]
    causal = all(len(separable(scope[entry.name])) == 1 for entry in entries)
    return len(entries) > 1 and len(writes) > 1 and len(set(writes)) == len(writes) and causal


def evaluation_page(measured: Mapping[str, Any], title: str) -> str:
    """Show what `evaluate` found of a scope.

    Args:
        measured: its result.
        title: the heading.
    """
    coders: Mapping[str, Any] = measured["coders"]
    charts = [(words, lines) for words, column in LOST.items() if (lines := _panels(coders, column))]
    body = [section(f"L0 against {words}", lines, "L0", words) for words, lines in charts]
    frequencies = [
        figure(
            bars(facts["histogram"], DECADES, "share of tokens"),
            f"{name}: {facts['dead']:.1%} dead, {facts['dense']:.1%} dense",
        )
        for name, facts in coders.items()
    ]
    body += [heading("How often latents are active"), panels(frequencies)]
    return html_document(title, [*body, heading("Figures"), table(evaluation_rows(measured))])


def evaluation_rows(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table of what `evaluate` found: one for each coder and each set of coders that are replaced at once."""
    rows = [{"coder": name} | _flat(facts) for name, facts in measured["coders"].items()]
    rows += [{"coder": f"all at once: {name}"} | facts for name, facts in measured.get("sets", {}).items()]
    return [{name: row[name] for name in ("coder", *COLUMNS) if name in row} for row in rows]


def _panels(coders: Mapping[str, Any], column: str) -> dict[str, dict[str, list[Point]]]:
    """One panel for each pair of kinds of sites, one line for each pair of sites."""
    lines: dict[str, dict[str, list[Point]]] = {}
    for name, facts in coders.items():
        flat = _flat(facts)
        if column in flat:
            span = (facts if column == "fvu" else facts["loss"]).get("intervals", {}).get(column)
            point = Point(flat["l0"], flat[column], name, tuple(span) if span else None)
            ends = facts["reads"][0], facts["writes"][-1]
            title = " to ".join(dict.fromkeys(end.partition(".")[0] for end in ends))
            lines.setdefault(title, {}).setdefault(_layers(facts), []).append(point)
    return lines


def _layers(facts: Mapping[str, Any]) -> str:
    layers = [site.partition(".")[2] for site in (*facts["reads"], *facts["writes"])]
    return f"layer {layers[0]}" if len(set(layers)) == 1 else f"layers {layers[0]} to {layers[-1]}"


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A coder's own figures, and of its loss those that go into the table."""
    loss = facts.get("loss", {})
    return {**facts, **{name: loss[name] for name in ("recovered", "kl") if name in loss}}
