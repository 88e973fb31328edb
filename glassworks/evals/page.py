"""The page of an evaluation: L0 against what is lost, how often latents are active, and a table; one HTML file."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from glassworks.evals.chart import BOTTOM, HEIGHT, HUES, LEFT, RIGHT, TOP, WIDTH, Axis, Point, bars, curves
from glassworks.evals.fidelity import DECADES

Panels = Mapping[str, Mapping[str, Sequence[Point]]]
"""Title of a panel -> name of a line -> its points."""

HUE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f", "#6a3d9a")
"""Okabe and Ito's palette for all kinds of colour vision, its yellow darkened."""
STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#222, #ddd); --faint: light-dark(#e6e6e6, #333); }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: light-dark(#fff, #151515);
  max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .85rem; font-weight: 600; }
svg { width: 100%; display: block; overflow: visible; } .grid { stroke: var(--faint); }
.tick, .label { font-size: 9px; fill: var(--ink); text-anchor: middle; } .end { text-anchor: end; }
polyline { fill: none; stroke-width: 1.5; } .bar { fill: var(--hue-0); } .scroll { overflow-x: auto; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; margin: .4rem 0 .8rem; }
.legend span::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 50%;
  background: var(--hue); margin-right: .4em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
th, td { padding: .15rem .7rem .15rem 0; text-align: right; border-bottom: 1px solid var(--faint); }
th:first-child, td:first-child { text-align: left; }
"""
COLUMNS = ("l0", "fvu", "median", "cosine", "dead", "dense", "recovered", "kl", "tokens")


def page(measured: Mapping[str, Any], title: str) -> str:
    """Show what `measure` found of a scope.

    Args:
        measured: its result.
        title: the heading.
    """
    coders: Mapping[str, Any] = measured["coders"]
    rows = [{"coder": name} | _flat(facts) for name, facts in coders.items()]
    rows += [{"coder": f"all at once: {name}"} | facts for name, facts in measured.get("sets", {}).items()]
    charts = [(words, panels) for words, column in LOST.items() if (panels := _panels(coders, column))]
    body = [section(f"L0 against {words}", panels, "L0", words) for words, panels in charts]
    frequencies = "".join(
        f"<figure><figcaption>{escape(name)}: {facts['dead']:.1%} dead, {facts['dense']:.1%} dense</figcaption>"
        f"{bars(facts['histogram'], DECADES, 'share of tokens')}</figure>"
        for name, facts in coders.items()
    )
    body.append(f'<h2>How often latents are active</h2><div class="panels">{frequencies}</div>')
    return document(title, [*body, "<h2>Figures</h2>", table(rows, ("coder", *COLUMNS))])


LOST = {"FVU": "fvu", "KL, nats a token": "kl"}


def section(heading: str, panels: Panels, x: str, y: str) -> str:
    """Panels of lines on the same axes, with one legend.

    Args:
        heading: above them.
        panels: what they show.
        x: label of the horizontal axis.
        y: label of the vertical axis.
    """
    points = [point for lines in panels.values() for each in lines.values() for point in each]
    across = Axis.over((point.x for point in points), LEFT, WIDTH - RIGHT, x)
    spans = [end for point in points for end in (point.span or ())]
    up = Axis.over([*(point.y for point in points), *spans], HEIGHT - BOTTOM, TOP, y)
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    hued = [f'<span style="--hue: var(--hue-{n % HUES})">{escape(name)}</span>' for n, name in enumerate(names)]
    figures = []
    for title, lines in panels.items():
        drawn = curves({name: lines.get(name, ()) for name in names}, across, up)
        figures.append(f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>")
    legend = f'<div class="legend">{"".join(hued)}</div>'
    return f'<h2>{escape(heading)}</h2>{legend}<div class="panels">{"".join(figures)}</div>'


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table of the columns that any row has."""
    kept = [name for name in columns if any(name in row for row in rows)]
    head = "".join(f"<th>{escape(name)}</th>" for name in kept)
    lines = ["".join(f"<td>{_cell(row.get(name))}</td>" for name in kept) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def document(title: str, body: Sequence[str]) -> str:
    """A whole HTML document that needs nothing else."""
    hues = "".join(f"--hue-{n}: {each}; " for n, each in enumerate(HUE))
    marks = "".join(f".hue-{n} {{ stroke: {each}; fill: {each}; }} " for n, each in enumerate(HUE))
    style = f"{STYLE}:root {{ {hues}}} {marks}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{escape(title)}</title><style>{style}</style></head>'
        f"<body><h1>{escape(title)}</h1>{''.join(body)}</body></html>\n"
    )


def _panels(coders: Mapping[str, Any], column: str) -> dict[str, dict[str, list[Point]]]:
    """One panel for each pair of kinds of sites, one line for each pair of sites."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for name, facts in coders.items():
        flat = _flat(facts)
        if column in flat:
            span = (facts if column == "fvu" else facts["loss"]).get("intervals", {}).get(column)
            point = Point(flat["l0"], flat[column], name, tuple(span) if span else None)
            ends = facts["reads"][0], facts["writes"][-1]
            title = " to ".join(dict.fromkeys(end.partition(".")[0] for end in ends))
            panels.setdefault(title, {}).setdefault(_layers(facts), []).append(point)
    return panels


def _layers(facts: Mapping[str, Any]) -> str:
    layers = [site.partition(".")[2] for site in (*facts["reads"], *facts["writes"])]
    return f"layer {layers[0]}" if len(set(layers)) == 1 else f"layers {layers[0]} to {layers[-1]}"


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A coder's own figures, and of its loss those that go into the table."""
    loss = facts.get("loss", {})
    return {**facts, **{name: loss[name] for name in ("recovered", "kl") if name in loss}}


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else escape(f"{value:,}" if isinstance(value, int) else str(value))
