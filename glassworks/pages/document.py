"""Documents: what every page of ours is made of, as HTML text that needs no script, no library and no network.

This module must not know what is shown.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from glassworks.pages.chart import BOTTOM, HEIGHT, HUES, LEFT, RIGHT, TOP, WIDTH, Axis, Linear, Point, curves

DEEPEST = 0.75
"""How much of its colour the fullest cell of a heat map has, so that its number stays readable."""
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
.heat th.up { writing-mode: vertical-rl; transform: rotate(180deg); padding: .3rem .15rem; font-weight: 400;
  white-space: pre; }
.heat td { padding: .15rem .3rem; border: 1px solid var(--faint); min-width: 2.2rem;
  background: color-mix(in srgb, var(--sign) var(--much), transparent); }
.heat th:first-child { white-space: nowrap; padding-right: .7rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
pre { white-space: pre-wrap; background: var(--faint); padding: .6rem .8rem; border-radius: .4rem; margin: .2rem 0; }
"""


def section(heading: str, panels: Panels, x: str, y: str, axis: type[Axis] | type[Linear] = Axis) -> str:
    """Panels of lines on the same axes, with one legend.

    Args:
        heading: above them.
        panels: what they show.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        axis: how both axes are spaced.
    """
    points = [point for lines in panels.values() for each in lines.values() for point in each]
    across = axis.over((point.x for point in points), LEFT, WIDTH - RIGHT, x)
    spans = [end for point in points for end in (point.span or ())]
    up = axis.over([*(point.y for point in points), *spans], HEIGHT - BOTTOM, TOP, y)
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


def heat(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    """A table whose cells are coloured by their values, blue above 0 and orange below, full at 1 and -1.

    Args:
        rows: names of the rows.
        columns: names of the columns.
        values: by row and column; nan is left empty.
    """
    head = "".join(f'<th class="up">{escape(name)}</th>' for name in columns)
    lines = [f"<th>{escape(name)}</th>{''.join(map(_warm, row))}" for name, row in zip(rows, values, strict=True)]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table class="heat"><thead><tr><th></th>{head}</tr></thead>{body}</table></div>'


def _warm(value: float) -> str:
    if value != value:
        return "<td></td>"
    sign, much = int(value < 0), DEEPEST * min(abs(value), 1.0)
    return f'<td style="--sign: var(--hue-{sign}); --much: {much:.0%}">{round(value, 2) + 0.0:.2f}</td>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else escape(f"{value:,}" if isinstance(value, int) else str(value))
