"""Documents: the elements of every page, as HTML text that needs no script, no library and no network.

Every function escapes the text that it is given and returns markup, which `document` puts together.
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
.wide { grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); } text.in { font-size: 9px; fill: var(--ink); }
.mid { text-anchor: middle; } .whisker { stroke: var(--ink); } .chance { stroke: var(--ink); stroke-dasharray: 3 3; }
.note { font-size: .85rem; max-width: 46rem; } .hue-0 .dot, .hue-1 .dot { stroke: none; fill-opacity: .45; }
.words td { text-align: left; } .heat { margin: .3rem 0 1rem; }
"""


def heading(text: str, level: int = 2) -> str:
    """A heading; 2 is that of a section."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, note: bool = False) -> str:
    """A paragraph, in small letters where it is a note."""
    kind = ' class="note"' if note else ""
    return f"<p{kind}>{escape(text)}</p>"


def preformatted(text: str) -> str:
    """A text as it is, line breaks included."""
    return f"<pre>{escape(text)}</pre>"


def bullets(items: Sequence[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def figure(drawing: str, caption: str = "") -> str:
    """A drawing with its caption."""
    above = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{above}{drawing}</figure>"


def panels(figures: Sequence[str], wide: bool = False) -> str:
    """Figures side by side."""
    return f'<div class="panels{" wide" * wide}">{"".join(figures)}</div>'


def side_by_side(texts: Mapping[str, str]) -> str:
    """Texts beside each other, each below its name."""
    return (
        f'<div class="pair">{"".join(f"<div>{escape(name)}{preformatted(texts[name])}</div>" for name in texts)}</div>'
    )


def section(title: str, lines_of: Panels, x: str, y: str, axis: type[Axis] | type[Linear] = Axis) -> str:
    """Panels of lines on the same axes, with one legend.

    Args:
        title: above them.
        lines_of: what they show.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        axis: how both axes are spaced.
    """
    points = [point for lines in lines_of.values() for line in lines.values() for point in line]
    across = axis.over((point.x for point in points), LEFT, WIDTH - RIGHT, x)
    spans = [end for point in points for end in (point.span or ())]
    up = axis.over([*(point.y for point in points), *spans], HEIGHT - BOTTOM, TOP, y)
    names = list(dict.fromkeys(name for lines in lines_of.values() for name in lines))
    figures = []
    for caption, lines in lines_of.items():
        drawn = curves({name: lines.get(name, ()) for name in names}, across, up)
        figures.append(figure(drawn, caption) if caption else figure(drawn))
    return heading(title) + legend(names) + panels(figures)


def legend(names: Sequence[str]) -> str:
    """Names with their colours, in the order of the hues."""
    hued = [f'<span style="--hue: var(--hue-{n % HUES})">{escape(name)}</span>' for n, name in enumerate(names)]
    return f'<div class="legend">{"".join(hued)}</div>'


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, words: bool = False) -> str:
    """A table of the columns that any row has.

    Args:
        rows: values by column.
        columns: in their order; those of all rows if unset.
        words: whether it is read rather than added up: everything is aligned to the left.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    kept = names if columns is None else [name for name in columns if name in names]
    head = "".join(f"<th>{escape(name)}</th>" for name in kept)
    lines = ["".join(f"<td>{_cell(row.get(name))}</td>" for name in kept) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    kind = "scroll words" if words else "scroll"
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def document(title: str, body: Sequence[str]) -> str:
    """A whole HTML document that needs nothing else."""
    hues = "".join(f"--hue-{n}: {color}; " for n, color in enumerate(HUE))
    marks = "".join(f".hue-{n} {{ stroke: {color}; fill: {color}; }} " for n, color in enumerate(HUE))
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
