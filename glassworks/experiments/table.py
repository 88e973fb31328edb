"""Table: the raw numbers of an experiment as tidy columns; means, differences, intervals and pages follow from them.

It must not know what the numbers mean.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from math import isnan, nan
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from glassworks import artefacts, pages, stats
from glassworks.errors import BadArtefact, BadInput, nearest
from glassworks.stats import Estimate

COLUMNS = ("case", "group", "intervention", "amount", "control", "seed", "metric", "at", "value", "weight")
NUMBERS = {"amount": np.float64, "seed": np.int64, "value": np.float64, "weight": np.float64}
MOST_ARMS, MOST_METRICS = 14, 6
"""Of a summary; the table itself holds all."""
Mean = Callable[..., Tensor]
"""`mean(metric, intervention="clean", control="", amount=None, at="")`: a weighted mean, in every resample."""


@final
@dataclass(eq=False)
class Table:
    """One row for each number: a metric of a case under an intervention.

    Attributes:
        columns: numpy arrays of equal length by name: `case`, `group`, `intervention`, `amount` (nan where it has
            none), `control` ("" for the intervention itself), `seed` (of the control's draw), `metric`, `at` (token or
            stratum), `value` and `weight`. `pandas.DataFrame(table.columns)` works.
    """

    columns: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, rows: Mapping[str, Sequence[Any]]) -> "Table":
        """Make one from lists; BadInput where a column is missing."""
        missing = [name for name in COLUMNS if name not in rows]
        if missing or len({len(rows[name]) for name in COLUMNS}) > 1:
            raise BadInput(f"A table has the columns {', '.join(COLUMNS)}, all of one length; missing: {missing}.")
        return cls({name: np.array(rows[name], dtype=NUMBERS.get(name, object)) for name in COLUMNS})

    @classmethod
    def read(cls, path: Path | str) -> "Table":
        """Read a table that was saved as JSON; BadArtefact where the file holds none."""
        plain = artefacts.read_json(Path(path))
        try:
            return cls.of({name: [nan if cell is None else cell for cell in plain[name]] for name in COLUMNS})
        except (KeyError, TypeError, ValueError) as error:
            raise BadArtefact(f"The file {path} is no table of an experiment: {error}.") from error

    def __len__(self) -> int:
        return len(self.columns["value"])

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise BadInput(f"The table has no column {name!r}; {nearest(name, COLUMNS, most=len(COLUMNS))}.")
        return self.columns[name]

    def __add__(self, other: "Table") -> "Table":
        return Table({name: np.concatenate([self[name], other[name]]) for name in COLUMNS})

    def where(self, **equal: Any) -> "Table":
        """The rows in which columns have these values: `table.where(metric="loss", intervention="clean")`."""
        kept = np.logical_and.reduce([self[name] == value for name, value in equal.items()])
        return Table({name: column[kept] for name, column in self.columns.items()})

    def unique(self, *names: str) -> list[tuple[Any, ...]]:
        """The combinations of values that occur in some columns, in the order in which they come."""
        return list(dict.fromkeys(zip(*(self[name].tolist() for name in names), strict=True)))

    @cached_property
    def _arms(self) -> dict[tuple[str, str, str, str], dict[float, np.ndarray]]:
        """(metric, intervention, control, at) -> amount -> numbers of the rows."""
        names = ("metric", "intervention", "control", "at", "amount")
        codes: list[np.ndarray] = []
        values: list[list[Any]] = []
        for name in names:
            column = np.nan_to_num(self[name], nan=-np.inf) if name == "amount" else self[name].astype(str)
            level, code = np.unique(column, return_inverse=True)
            codes.append(code)
            values.append(level.tolist())
        if not len(self):
            return {}
        whole = np.ravel_multi_index(codes, [len(level) for level in values])
        order = np.argsort(whole, kind="stable")
        starts = np.flatnonzero(np.diff(whole[order], prepend=-1))
        arms: dict[tuple[str, str, str, str], dict[float, np.ndarray]] = {}
        for rows in np.split(order, starts[1:]):
            *key, amount = (level[int(code[rows[0]])] for level, code in zip(values, codes, strict=True))
            arms.setdefault(tuple(key), {})[nan if amount == -np.inf else amount] = rows  # pyright: ignore
        return arms

    def _rows(self, metric: str, intervention: str, control: str, amount: float | None, at: str) -> np.ndarray:
        """The numbers of the rows of one arm; BadInput where there are none, or several amounts."""
        amounts = self._arms.get((metric, intervention, control, at))
        if amounts is None:
            arm = intervention + (f" ~ {control}" if control else "")
            known = sorted({f"{key[0]} of {key[1]}" + (f" ~ {key[2]}" if key[2] else "") for key in self._arms})
            raise BadInput(f"The table has no {metric} of {arm}{at and f' at {at}'}; "
                           f"{nearest(f'{metric} of {arm}', known)}.")  # fmt: skip
        if amount is None and len(amounts) == 1:
            return next(iter(amounts.values()))
        if amount is None or float(amount) not in amounts:
            raise BadInput(f"Say which amount of {intervention!r}: {', '.join(f'{each:g}' for each in amounts)}.")
        return amounts[float(amount)]

    @cached_property
    def _groups(self) -> tuple[int, np.ndarray]:
        names, numbers = np.unique(self["group"].astype(str), return_inverse=True)
        return len(names), numbers

    def estimates(self, figures: Mapping[str, Callable[[Mean], Tensor]]) -> dict[str, Estimate]:
        """Several formulas of weighted means at once, from one resampling; see `estimate`."""
        count, numbers = self._groups
        used: dict[str, set[tuple[Any, ...]]] = {name: set() for name in figures}
        sums: dict[tuple[Any, ...], Tensor] = {}
        observed: dict[tuple[Any, ...], set[int]] = {}

        def collect(name: str) -> Mean:
            def mean(
                metric: str, intervention: str = "clean", control: str = "", amount: float | None = None, at: str = ""
            ) -> Tensor:
                key = metric, intervention, control, amount, at
                used[name].add(key)
                if key not in sums:
                    rows = self._rows(*key)
                    columns = (numbers[rows], *(self[each][rows] for each in ("seed", "value", "weight")))
                    group, seed, value, weight = (torch.from_numpy(np.ascontiguousarray(each)) for each in columns)
                    sums[key] = torch.zeros(count, 2, int(seed.max()) + 1, dtype=torch.float64)
                    place = group[:, None], torch.arange(2), seed[:, None]
                    sums[key].index_put_(place, torch.stack([value * weight, weight], 1), accumulate=True)
                    observed[key] = set(group.tolist() if count > 1 else seed.tolist())
                return torch.ones(1, dtype=torch.float64)

            return mean

        for name, figure in figures.items():
            figure(collect(name))
        if not sums:
            return {name: stats.interval(figure(collect(name)), 0) for name, figure in figures.items()}
        drawn = stats.resampled(torch.cat([each.flatten(1) for each in sums.values()], 1))
        means: dict[tuple[Any, ...], Tensor] = {}
        for (key, each), part in zip(
            sums.items(), drawn.split([each[0].numel() for each in sums.values()], 1), strict=True
        ):
            by_seed = part.unflatten(1, each.shape[1:])
            if each.shape[2] > 1:
                by_seed = by_seed * torch.cat(list(stats.draws(each.shape[2], seed=1)))[:, None]
            top, bottom = by_seed.sum(2).unbind(1)
            means[key] = top / bottom

        def known(
            metric: str, intervention: str = "clean", control: str = "", amount: float | None = None, at: str = ""
        ) -> Tensor:
            return means[metric, intervention, control, amount, at]

        clusters = {name: len(set().union(*(observed[key] for key in keys))) for name, keys in used.items()}
        return {name: stats.interval(figure(known), clusters[name]) for name, figure in figures.items()}

    def estimate(self, figure: Callable[[Mean], Tensor]) -> Estimate:
        """Any formula of weighted means, with its interval over groups.

        Args:
            figure: the formula, `lambda m: m("loss", "ablate") / m("loss")`. All means see the same resampled groups,
                so differences are paired; the draws of a control are resampled besides.
        """
        return self.estimates({"": figure})[""]

    def value(self, metric: str, intervention: str = "clean", at: str = "") -> float:
        """A weighted mean without an interval."""
        rows = self._rows(metric, intervention, "", None, at)
        return float(np.average(self["value"][rows], weights=self["weight"][rows]))

    def mean(
        self,
        metric: str,
        intervention: str = "clean",
        control: str = "",
        amount: float | None = None,
        at: str = "",
    ) -> Estimate:
        """A weighted mean over cases; of yes-or-no cases with Wilson's interval."""
        rows = self._rows(metric, intervention, control, amount, at)
        value, weight = self["value"][rows], self["weight"][rows]
        alone = len(np.unique(self._groups[1][rows])) == len(rows)
        if alone and len(rows) > 1 and (weight == weight[0]).all() and self._is_yes_or_no(metric):
            return stats.wilson(int(value.sum()), len(value))
        return self.estimate(lambda m: m(metric, intervention, control, amount, at))

    def difference(
        self,
        metric: str,
        intervention: str,
        base: str = "clean",
        control: str = "",
        amount: float | None = None,
        at: str = "",
    ) -> Estimate:
        """Paired difference between two arms.

        Args:
            metric: of which number.
            intervention: the one arm.
            base: what is subtracted: the clean run, another intervention, or with the same name and a `control` what
                chance does.
            control: of the base.
            amount: of the intervention, and of the base where it has one.
            at: which token or stratum.
        """
        of_base = amount if base == intervention else None
        return self.estimate(lambda m: m(metric, intervention, "", amount, at) - m(metric, base, control, of_base, at))

    def recovered(self, metric: str, intervention: str, floor: str, ceiling: str = "clean") -> Estimate:
        """(x - floor) / (ceiling - floor): loss recovered, the share of a patch, the faithfulness of a circuit."""
        return self.estimate(
            lambda m: (m(metric, intervention) - m(metric, floor)) / (m(metric, ceiling) - m(metric, floor))
        )

    def p_value(self, metric: str, intervention: str, control: str, amount: float | None = None) -> float:
        """How often a control's draw moves the metric at least as far from the clean run as the intervention does."""
        clean = self.mean(metric).value
        rows = self._rows(metric, intervention, control, amount, "")
        draws = [rows[self["seed"][rows] == seed] for seed in np.unique(self["seed"][rows])]
        arms = [self._rows(metric, intervention, "", amount, ""), *draws]
        moved = [abs(float(np.average(self["value"][arm], weights=self["weight"][arm])) - clean) for arm in arms]
        return stats.permutation_p(moved[0], moved[1:])

    def curve(self, metric: str, intervention: str, control: str = "") -> list[tuple[float, Estimate]]:
        """The dose curve of an intervention: its amounts, with the mean at each."""
        amounts = sorted(self._arms.get((metric, intervention, control, ""), ()))
        return [(amount, self.mean(metric, intervention, control, amount)) for amount in amounts]

    def _is_yes_or_no(self, metric: str) -> bool:
        """Whether a metric is 0 or 1 in the whole table; a divergence of 0 is no share."""
        return bool(np.isin(self["value"][self["metric"] == metric], (0, 1)).all())

    def summary(self) -> list[dict[str, str]]:
        """A row for each arm, a column for each metric: means with their intervals as text."""
        metrics = [name for name, at in self.unique("metric", "at") if not at]
        rows: dict[tuple[str, str, float], dict[str, str]] = {}
        for name, control, amount in self.unique("intervention", "control", "amount"):
            key = name, control, -np.inf if isnan(amount) else amount
            if key not in rows:
                arm = name + ("" if isnan(amount) else f" {amount:g}") + (f" ~ {control}" if control else "")
                row = rows[key] = {"": arm}
                for metric in dict.fromkeys(metrics):
                    if amount in (amounts := self._amounts(metric, name, control)) or (isnan(amount) and amounts):
                        row[metric] = str(self.mean(metric, name, control, None if isnan(amount) else amount))
        return list(rows.values())

    def _amounts(self, metric: str, intervention: str, control: str) -> list[float]:
        return list(self._arms.get((metric, intervention, control, ""), ()))

    def _caption(self) -> str:
        count = len(self.unique("case"))
        return f"{len(self)} numbers of {count} cases in {self._groups[0]} groups; means with 95 % intervals"

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table as Printed
        from rich.text import Text

        rows = self.summary()
        metrics = [name for name in dict.fromkeys(name for row in rows for name in row) if name]
        left = f"; {len(rows) - MOST_ARMS} more arms" if len(rows) > MOST_ARMS else ""
        left += f"; {len(metrics) - MOST_METRICS} more metrics" if len(metrics) > MOST_METRICS else ""
        printed = Printed("", *metrics[:MOST_METRICS], box=None, pad_edge=False)
        for row in rows[:MOST_ARMS]:
            printed.add_row(*(row.get(name, "") for name in ("", *metrics[:MOST_METRICS])))
        return Group(printed, Text(self._caption() + left, style="dim"))

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=StringIO(), width=200)
        console.print(self)
        lines = console.file.getvalue().splitlines()  # pyright: ignore
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self) -> str:
        return f"Table({self._caption()})"

    def _repr_html_(self) -> str:
        rows = self.summary()
        return pages.table(rows, list(dict.fromkeys(name for row in rows for name in row)))

    def page(self, title: str) -> str:
        """The summary as a page of HTML, with the dose curves of what was given in several amounts."""
        body = [pages.paragraph(self._caption()), self._repr_html_()]
        curves: dict[str, dict[str, list[pages.Point]]] = {}
        for (metric, name, control, at), amounts in self._arms.items():
            if len(amounts) > 1 and not at:
                arm = name + (f" ~ {control}" if control else "")
                curves.setdefault(metric, {})[arm] = [
                    pages.Point(amount, mean.value, arm, None if isnan(mean.low) else mean.ends)
                    for amount, mean in self.curve(metric, name, control)
                ]
        for metric, lines in curves.items():
            body.append(pages.section(metric, {"": lines}, "amount", metric, pages.Linear))
        return pages.document(title, body)

    def save(self, path: Path | str, title: str = "Experiment") -> None:
        """Write it as `.json`, as an `.html` page, or as `.parquet`, for which pyarrow is needed (the extra `data`).

        Args:
            path: its ending says how.
            title: of the page.

        Raises:
            BadInput: another ending, or pyarrow is missing.
        """
        path = Path(path)
        if path.suffix == ".html":
            artefacts.replace_text(path, self.page(title))
        elif path.suffix == ".json":
            plain = {name: self[name].tolist() for name in COLUMNS}
            plain["amount"] = [None if isnan(amount) else amount for amount in plain["amount"]]
            plain["value"] = [None if isnan(value) else value for value in plain["value"]]
            artefacts.replace_text(path, json.dumps(plain))
        elif path.suffix == ".parquet":
            try:
                import pyarrow
                import pyarrow.parquet
            except ImportError as error:
                raise BadInput("Parquet needs pyarrow: pip install 'glassworks[data]', or save as .json.") from error
            rows = pyarrow.table({name: self[name].tolist() for name in COLUMNS})
            pyarrow.parquet.write_table(rows, path)
        else:
            raise BadInput(f"A table is saved as .json, .html or .parquet; got {path.name!r}.")
