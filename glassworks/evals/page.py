"""The page of an evaluation: L0 against what is lost, how often latents are active, and a table; one HTML file."""

from collections.abc import Mapping
from typing import Any

from glassworks.evals.fidelity import DECADES
from glassworks.pages import Point, bars, document, figure, heading, panels, section, table

COLUMNS = ("l0", "fvu", "median", "cosine", "dead", "dense", "recovered", "kl", "tokens")


def page(measured: Mapping[str, Any], title: str) -> str:
    """Show what `measure` found of a scope.

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
    return document(title, [*body, heading("Figures"), table(figures(measured))])


def figures(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table of what `measure` found: one a coder, and one a set of coders that replace all layers at once."""
    rows = [{"coder": name} | _flat(facts) for name, facts in measured["coders"].items()]
    rows += [{"coder": f"all at once: {name}"} | facts for name, facts in measured.get("sets", {}).items()]
    return [{name: row[name] for name in ("coder", *COLUMNS) if name in row} for row in rows]


LOST = {"FVU": "fvu", "KL, nats a token": "kl"}


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
