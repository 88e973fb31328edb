"""Experiment: cases x interventions x metrics -> a table, with controls.

Rows of (case, intervention) are batched; those that may share a forward do. The clean run, and the run of the source
prompts, are made once a batch. Every forward is one line of the journal, so that a run that was stopped goes on.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, final

import torch

from glassworks.errors import BadInput
from glassworks.experiments.cases import Batch, Case
from glassworks.experiments.controls import Control
from glassworks.experiments.interventions import Clean, Intervention, SourcePrompt, fingerprint
from glassworks.experiments.metrics import Metric
from glassworks.experiments.table import COLUMNS, Table
from glassworks.harvest import batches, pad
from glassworks.models import Model
from glassworks.sites import Site

TOKENS = 4096
"""Of a forward's rectangle, unless the vocabulary is so large that fewer fit."""
LOGITS = 1 << 26
"""Logits of a forward at the most: 256 MiB."""
Row = tuple[int, int]
"""A case's number within its batch, and an arm's."""


@final
@dataclass(eq=False)
class Experiment:
    """Cases x interventions x metrics; the clean run is always the first arm.

    Example:
        ```python
        Experiment(model, cases, [Edits("ablate", [gw.ablate(texas)])], [logit_difference(), kl()]).run()
        ```

    Attributes:
        model: what runs.
        cases: the items.
        interventions: what is done to the model, each with a name of its own; doses of one share it.
        metrics: what is measured of every case under each intervention.
        controls: what chance would do in the place of each intervention that has targets.
        tokens: of a forward at the most.
    """

    model: Model
    cases: Sequence[Case]
    interventions: Sequence[Intervention]
    metrics: Sequence[Metric]
    controls: Sequence[Control] = ()
    tokens: int = TOKENS

    def __post_init__(self) -> None:
        """Raise BadInput where there is nothing to do, or two things have one name."""
        if not self.cases or not self.metrics:
            raise BadInput("An experiment needs at least one case and one metric.")
        named = {
            "interventions": [(arm.name, str(arm.amount), arm.control, arm.seed) for arm in self.interventions],
            "metrics": [(metric.name,) for metric in self.metrics],
            "cases": [(case.name or number,) for number, case in enumerate(self.cases)],
        }
        for kind, names in named.items():
            if ("clean", "nan", "", 0) in names:
                raise BadInput("An intervention is called clean, as the run without one is; give it another name.")
            if len(set(names)) < len(names):
                twice = next(name for name, count in Counter(names).items() if count > 1)
                raise BadInput(f"Two {kind} have the name {twice[0]!r}; the table needs a name for each.")

    @property
    def arms(self) -> list[Intervention]:
        """The clean run, the interventions, and the draws of each control for those of them that have targets."""
        arms: list[Intervention] = [Clean(), *self.interventions]
        for intervention in self.interventions:
            if intervention.control or type(intervention).retarget is Intervention.retarget:
                continue
            for control in self.controls:
                arms += control.of(intervention)
        return arms

    @torch.no_grad()
    def run(self, journal: Path | str | None = None, progress: bool = False) -> Table:
        """Run everything, or what the journal does not hold yet.

        Args:
            journal: a file that keeps what was measured, one line a forward; the same experiment goes on from it.
            progress: whether to show a bar, on stderr.

        Raises:
            BadInput: the journal is of another experiment, or a metric or intervention does not fit a case.
        """
        cases, arms = [self._labelled(number, case) for number, case in enumerate(self.cases)], self.arms
        prompts = [self.model.tokens(case.prompt).tolist() for case in cases]
        rows = [[*prompt, *case.label(self.model)[:-1]] for prompt, case in zip(prompts, cases, strict=True)]
        for case, prompt in zip(cases, prompts, strict=True):
            if case.kept is not None and len(case.kept) < len(prompt):
                raise BadInput(f"The case {case.name} has {len(prompt)} tokens and {len(case.kept)} marks in `kept`.")
        facts = (self.model.name, cases, arms, [metric.name for metric in self.metrics], self.tokens)
        done, keep = _journal(journal, lambda: repr(fingerprint(facts)))
        most = min(self.tokens, max(1, LOGITS // self.model.vocab_size))
        parts = batches(rows, most)
        results = []
        for number, part in enumerate(_tracked(parts, progress)):
            here = _Part(self, [cases[each] for each in part], [rows[each] for each in part],
                         [len(prompts[each]) for each in part], arms)  # fmt: skip
            for place, unit in enumerate(here.units(most)):
                key = f"{number}/{place}"
                if key not in done:
                    done[key] = here.measure(unit)
                    keep(key, done[key])
                results.append(done[key])
        return Table.of({name: [cell for result in results for cell in result[name]] for name in COLUMNS})

    def _labelled(self, number: int, case: Case) -> Case:
        """A case with a name, a group, and its answer and foil as ids."""
        name = case.name or str(number)
        answer, foil = (case.label(self.model, which) or None for which in ("answer", "foil"))
        return replace(case, name=name, group=case.group or name, answer=answer, foil=foil and foil[0])


@final
class _Part:
    """The cases of one batch, and their clean and source runs once something needs them."""

    def __init__(
        self,
        experiment: Experiment,
        cases: Sequence[Case],
        rows: Sequence[Sequence[int]],
        ends: Sequence[int],
        arms: Sequence[Intervention],
    ) -> None:
        self.experiment, self.model, self.metrics = experiment, experiment.model, experiment.metrics
        self.cases, self.rows, self.ends, self.arms = cases, rows, ends, arms
        self.sites = {site for metric in self.metrics for site in metric.reads}
        self._runs: tuple[Batch, Batch | None] | None = None

    def units(self, most: int) -> list[list[Row]]:
        """The rows of each forward: first the clean run, then rows of equal key, as many as fit into `most` tokens."""
        groups: dict[Hashable, list[Row]] = {}
        for arm, intervention in enumerate(self.arms[1:], 1):
            for case, item in enumerate(self.cases):
                groups.setdefault(intervention.key(item), []).append((case, arm))
        size = max(1, most // max(map(len, self.rows)))
        cut = [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]
        return [[(case, 0) for case in range(len(self.cases))], *cut]

    def measure(self, unit: Sequence[Row]) -> dict[str, list[Any]]:
        """The table's rows of one forward."""
        clean, source = self._references()
        arms = [self.arms[arm] for _, arm in unit]
        if isinstance(arms[0], Clean):
            batch = clean
        else:
            index = [case for case, _ in unit]
            batch = self._forward(index, arms, self.sites, clean.rows(index), source and source.rows(index))
        result: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for metric in self.metrics:
            measured = metric.measure(batch)
            values, weights = measured if isinstance(measured, tuple) else (measured, torch.ones_like(measured))
            values, weights = values.double().cpu(), weights.double().cpu()
            places = (weights > 0).nonzero()
            labels = [metric.at(k) for k in range(values.shape[1])]
            numbers = values[places[:, 0], places[:, 1]].tolist(), weights[places[:, 0], places[:, 1]].tolist()
            for (row, k), value, weight in zip(places.tolist(), *numbers, strict=True):
                case, arm = batch.cases[row], arms[row]
                cells = (case.name, case.group, arm.name, arm.amount, arm.control, arm.seed, metric.name, labels[k])
                for name, cell in zip(COLUMNS, (*cells, value, weight), strict=True):
                    result[name].append(cell)
        return result

    def _references(self) -> tuple[Batch, Batch | None]:
        """The clean run, and the source prompts' where something is carried from it, with all that anything reads."""
        if self._runs is None:
            everyone = range(len(self.cases))
            reads = self.sites | {site for arm in self.arms for site in arm.reads}
            carries = {site for arm in self.arms for site in arm.carries}
            clean = self._forward(everyone, [Clean()] * len(self.cases), reads)
            source = self._forward(everyone, [SourcePrompt()] * len(self.cases), carries) if carries else None
            self._runs = clean, source
        return self._runs

    def _forward(
        self,
        index: Sequence[int],
        arms: Sequence[Intervention],
        sites: Iterable[Site],
        clean: Batch | None = None,
        source: Batch | None = None,
    ) -> Batch:
        """Run rows under their interventions, and keep what is read after these acted."""
        model, metrics = self.model, self.metrics
        ids = pad([self.rows[case] for case in index])[0].to(model.device)
        ends, lengths = (torch.tensor([number[case] for case in index], device=model.device)
                         for number in (self.ends, [len(row) for row in self.rows]))  # fmt: skip
        whole = any(metric.whole for metric in metrics)
        cases = [self.cases[case] for case in index]
        batch = Batch(model, cases, arms, ids, ends, lengths, whole, clean, source)
        # Where all that is read are the logits after the last token, the unembedding sees nothing else.
        keep = int(all(metric.last for metric in metrics) and bool((ends == ids.shape[1]).all()))
        taps = {site: (lambda value, site=site: batch.values.__setitem__(site, value)) for site in sites}
        with model.taps.reading(ends.tolist()), arms[0].apply(batch), model.tapped(taps):
            logits = arms[0].logits(batch)
            if logits is None:
                logits = model.hf(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
            batch.logits = logits
        new_tokens = max(metric.new_tokens for metric in metrics)
        if new_tokens and not isinstance(arms[0], SourcePrompt):
            batch.texts = [arm.generate(batch, row, new_tokens) for row, arm in enumerate(arms)]
        return batch


def _tracked(parts: Sequence[Any], progress: bool) -> Iterable[Any]:
    if not progress:
        return parts
    from rich.console import Console
    from rich.progress import track

    return track(parts, "Running", console=Console(stderr=True), transient=True)


def _journal(
    path: Path | str | None, facts: Callable[[], str]
) -> tuple[dict[str, Any], Callable[[str, Mapping[str, Any]], Any]]:
    """The forwards that a journal holds, and how to append one; a torn last line is run again."""
    if path is None:
        return {}, lambda key, rows: None
    path, mark = Path(path), json.dumps(sha256(facts().encode()).hexdigest())
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    if lines and lines[0] != mark:
        raise BadInput(f"{path} is the journal of another experiment; give another file.")
    path.write_text("".join(f"{line}\n" for line in lines or [mark]), encoding="utf-8")

    def keep(key: str, rows: Mapping[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([key, rows]) + "\n")

    return dict(json.loads(line) for line in lines[1:]), keep
