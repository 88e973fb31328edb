"""Pictures: bars with intervals, histograms, scatters and flows as SVG text, without a library or a script.

Colours are those of the page's style sheet.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from glassworks.pages.document import legend

Interval = tuple[float, float, float]
"""A figure and the ends of its interval."""
Spot = tuple[int | float, int | float]
LEFT, WIDTH, ROW = 130, 520, 20


def interval_bars(rows: Sequence[tuple[str, Interval]], chance: float | None = None) -> str:
    """Shares with their intervals, one bar a row.

    Args:
        rows: name and share.
        chance: what chance gives, as a dashed line.
    """
    drawn, scale = [], WIDTH - LEFT - 60
    for number, (name, (value, low, high)) in enumerate(rows):
        top, middle = number * ROW + 3, number * ROW + ROW / 2
        drawn += [
            _text(LEFT - 6, middle + 3, name, "in end"),
            f'<rect x="{LEFT}" y="{top}" width="{max(value, 0) * scale:.1f}" height="{ROW - 6}" class="bar" '
            f'fill-opacity="0.6"><title>{escape(name)}: {with_interval((value, low, high))}</title></rect>',
            _line((LEFT + low * scale, middle), (LEFT + high * scale, middle), "whisker"),
            _text(LEFT + max(value, high) * scale + 6, middle + 3, f"{value:.0%}", "in"),
        ]
    if chance is not None:
        x = LEFT + chance * scale
        drawn.append(_line((x, 0), (x, len(rows) * ROW), "chance"))
    return _svg(drawn, WIDTH, len(rows) * ROW + 4)


def histogram(lines: Mapping[str, Iterable[float]], label: str, low: float = 0.0, high: float = 1.0) -> str:
    """Distributions of several sets of numbers, as shares of each set, stepped lines in the colours of the legend.

    Args:
        lines: the numbers by name; those beyond the ends are counted at the ends.
        label: of the horizontal axis.
        low: left end.
        high: right end.
    """
    count, drawn, tall = 40, [], 150
    shares: dict[str, list[float]] = {}
    for name, values in lines.items():
        cells = [min(max(int((value - low) / (high - low) * count), 0), count - 1) for value in values]
        shares[name] = [cells.count(cell) / max(len(cells), 1) for cell in range(count)]
    most = max((max(heights) for heights in shares.values()), default=0) or 1.0
    for hue, (name, heights) in enumerate(shares.items()):
        points = " ".join(
            f"{LEFT + (n + side) * (WIDTH - LEFT) / count:.1f},{tall - share / most * (tall - 12):.1f}"
            for n, share in enumerate(heights)
            for side in (0, 1)
        )
        drawn.append(f'<g class="hue-{hue}"><polyline points="{points}"><title>{escape(name)}</title></polyline></g>')
    ticks = [low + (high - low) * n / 4 for n in range(5)]
    drawn += [_text(LEFT + n * (WIDTH - LEFT) / 4, tall + 13, f"{tick:g}", "tick") for n, tick in enumerate(ticks)]
    drawn.append(_text((LEFT + WIDTH) / 2, tall + 28, label, "label"))
    return legend(list(lines)) + _svg(drawn, WIDTH + 14, tall + 34)


def scatter(
    points: Mapping[str, Sequence[tuple[float, float, str]]], labels: tuple[str, str], marks: tuple[float, float]
) -> str:
    """Marks at places between -0.5 and 1.5; those beyond lie on the rim. Hovering over a mark shows its name.

    Args:
        points: by the name of their set, x, y and name.
        labels: of the axes.
        marks: where a dashed line crosses each axis.
    """
    low, high, left, size = -0.5, 1.5, 40, 360

    def at(value: int | float) -> float:
        return (min(max(value, low), high) - low) / (high - low) * size

    drawn = [
        _line((left + at(marks[0]), 0), (left + at(marks[0]), size), "chance"),
        _line((left, size - at(marks[1])), (left + size, size - at(marks[1])), "chance"),
    ]
    for hue, some in enumerate(points.values()):
        dots = "".join(
            f'<circle cx="{left + at(x):.1f}" cy="{size - at(y):.1f}" r="2.5" class="dot">'
            f"<title>{escape(name)}</title></circle>"
            for x, y, name in some
        )
        drawn.append(f'<g class="hue-{hue}">{dots}</g>')
    for tick in (-0.5, 0, 0.5, 1, 1.5):
        drawn += [_text(left + at(tick), size + 13, f"{tick:g}", "tick")]
        drawn += [_text(left - 5, size - at(tick) + 3, f"{tick:g}", "tick end")]
    drawn.append(_text(left + size / 2, size + 28, labels[0], "label"))
    drawn.append(f'<text transform="translate(10 {size / 2}) rotate(-90)" class="label">{escape(labels[1])}</text>')
    return legend(list(points)) + _svg(drawn, left + size + 10, size + 34)


def flow(steps: Sequence[tuple[str, int, float, float]], chained: Sequence[int]) -> str:
    """Columns of features, one a layer, with what comes from below, what is born, and how many are chained on.

    Args:
        steps: name, features, share that is known from below, and share that goes on, of each layer.
        chained: pairs between each layer and the next.
    """
    most, tall, gap = max((size for _, size, _, _ in steps), default=1) or 1, 170, 130
    drawn, tops = [], []
    for n, (name, size, known, _) in enumerate(steps):
        height, x = size / most * (tall - 20), 20 + n * gap
        old, top = height * known, tall - height
        tops.append((x, height))
        drawn += [
            f'<rect x="{x}" y="{tall - old:.1f}" width="46" height="{old:.1f}" class="bar">'
            "<title>known from below</title></rect>",
            f'<rect x="{x}" y="{top:.1f}" width="46" height="{height - old:.1f}" class="bar" fill-opacity="0.3">'
            "<title>born here</title></rect>",
            _text(x + 23, tall + 13, name, "in mid"),
            _text(x + 23, top - 4, f"{size:,}", "in mid"),
        ]
    for n, count in enumerate(chained):
        (x, _), (after, _) = tops[n], tops[n + 1]
        thick = count / most * (tall - 20)
        points = f"{x + 46},{tall} {x + 46},{tall - thick:.1f} {after},{tall - thick:.1f} {after},{tall}"
        drawn.append(
            f'<polygon points="{points}" class="bar" fill-opacity="0.45"><title>{count} chained</title></polygon>'
        )
        going = f"{count:,} chained, {1 - steps[n][3]:.0%} die"
        drawn.append(_text((x + 46 + after) / 2, tall + 26, going, "in mid"))
    return _svg(drawn, 40 + gap * len(steps), tall + 32)


def _svg(parts: Iterable[str], width: int | float, height: int | float) -> str:
    box = f"0 0 {width:.0f} {height:.0f}"
    return f'<svg viewBox="{box}" role="img" style="max-width: {width * 1.3:.0f}px">{"".join(parts)}</svg>'


def with_interval(value: Interval) -> str:
    """A figure with its interval, as text."""
    return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"


def _line(start: Spot, stop: Spot, kind: str) -> str:
    (x, y), (to_x, to_y) = start, stop
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" class="{kind}"/>'


def _text(x: int | float, y: int | float, words: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(words)}</text>'
