"""Charts: small multiples as SVG text, without a drawing library or a script.

Colours come from the page's style sheet. This module must not know what is drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10
from typing import final

WIDTH, HEIGHT = 300, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
STEPS = (1, 2, 5)
HUES = 8
"""How many colours the style sheet has, `--hue-0` to `--hue-7`."""


@final
@dataclass(frozen=True)
class Point:
    """One mark: where it is, what it is, and its interval on the vertical axis where one is known."""

    x: float
    y: float
    name: str = ""
    span: tuple[float, float] | None = None


@final
@dataclass(frozen=True)
class Linear:
    """An even axis of some pixels; its attributes are those of `Axis`."""

    low: int | float
    high: int | float
    start: int | float
    stop: int | float
    label: str

    @classmethod
    def over(cls, values: Iterable[float], start: int | float, stop: int | float, label: str) -> "Linear":
        """The axis that holds the values, up to the next round ones."""
        known = [value for value in values if isfinite(value)] or [0.0]
        step = _step(max(known) - min(known))
        low, high = floor(min(known) / step) * step, ceil(max(known) / step) * step
        return cls(low, high if high > low else low + step, start, stop, label)

    def __call__(self, value: int | float) -> int | float:
        """The pixel of a value, at the axis' end where it lies beyond."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """Round values, few enough to be read."""
        step = _step(self.high - self.low)
        return [round(self.low + number * step, 12) for number in range(round((self.high - self.low) / step) + 1)]


@final
@dataclass(frozen=True)
class Axis:
    """A logarithmic axis of some pixels.

    Attributes:
        low: smallest value, at `start`.
        high: largest value, at `stop`.
        start: pixel.
        stop: pixel.
        label: what it shows.
    """

    low: int | float
    high: int | float
    start: int | float
    stop: int | float
    label: str

    @classmethod
    def over(cls, values: Iterable[float], start: int | float, stop: int | float, label: str) -> "Axis":
        """The axis that just holds positive values, up to the next round ones."""
        known = [value for value in values if value > 0] or [1.0]
        low, high = _below(min(known)), _above(max(known))
        return cls(low, high if high > low else low * 10, start, stop, label)

    def __call__(self, value: int | float) -> int | float:
        """The pixel of a value; below the axis' end where it is not positive."""
        value = min(max(value, self.low), self.high)
        share = (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return round(self.start + share * (self.stop - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """Round values, few enough to be read."""
        decades = range(floor(log10(self.low) + 1e-9), ceil(log10(self.high)) + 1)
        every = (1,) if self.high / self.low > 300 else STEPS
        ticks = [step * 10.0**decade for decade in decades for step in every]
        return [value for value in ticks if self.low * 0.999 <= value <= self.high * 1.001]


AnyAxis = Linear | Axis


def curves(lines: Mapping[str, Sequence[Point]], x: AnyAxis, y: AnyAxis) -> str:
    """One panel of lines with marks; hovering over a mark tells its name.

    Args:
        lines: points by name, in the order of the legend.
        x: horizontal axis.
        y: vertical axis.
    """
    drawn = [_line(points, number % HUES, x, y) for number, points in enumerate(lines.values())]
    return _svg([*_frame(x, y), *drawn])


def bars(counts: Sequence[int], ends: tuple[int, int], label: str) -> str:
    """One panel of a histogram over decades.

    Args:
        counts: from the lowest to the highest.
        ends: powers of ten at the left and the right end.
        label: of the horizontal axis.
    """
    x, most = Axis(10.0 ** ends[0], 10.0 ** ends[1], LEFT, WIDTH - RIGHT, label), max([*counts, 1])
    width, floor_ = (x.stop - x.start) / max(len(counts), 1), HEIGHT - BOTTOM
    drawn = []
    for number, count in enumerate(counts):
        tall = round((floor_ - TOP) * count / most, 1)
        place = f'x="{x.start + number * width:.1f}" y="{floor_ - tall}" width="{width - 1:.1f}" height="{tall}"'
        drawn.append(f'<rect {place} class="bar"><title>{count}</title></rect>')
    scale = f'<text x="{LEFT - 6}" y="{TOP + 8}" class="tick end">{most}</text>'
    return _svg([*_across(x), scale, *drawn])


def _svg(parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _line(points: Sequence[Point], hue: int, x: AnyAxis, y: AnyAxis) -> str:
    ordered = sorted(points, key=lambda point: point.x)
    path = " ".join(f"{x(point.x)},{y(point.y)}" for point in ordered)
    marks = [
        f'<circle cx="{x(point.x)}" cy="{y(point.y)}" r="3"><title>{escape(point.name)}: '
        f"{point.x:.3g}, {point.y:.3g}</title></circle>"
        for point in ordered
    ]
    spans = [
        f'<line x1="{x(point.x)}" x2="{x(point.x)}" y1="{y(point.span[0])}" y2="{y(point.span[1])}"/>'
        for point in ordered
        if point.span
    ]
    return f'<g class="hue-{hue}"><polyline points="{path}"/>{"".join(spans)}{"".join(marks)}</g>'


def _frame(x: AnyAxis, y: AnyAxis) -> list[str]:
    lines = [
        f'<line class="grid" x1="{x.start}" x2="{x.stop}" y1="{y(tick)}" y2="{y(tick)}"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 3.5}" class="tick end">{tick:g}</text>'
        for tick in y.ticks
    ]
    turned = f'transform="translate(11 {(y.start + y.stop) / 2}) rotate(-90)"'
    return [*_across(x), *lines, f'<text {turned} class="label">{escape(y.label)}</text>']


def _across(x: AnyAxis) -> list[str]:
    low = HEIGHT - BOTTOM
    lines = [
        f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{TOP}" y2="{low}"/>'
        f'<text x="{x(tick)}" y="{low + 13}" class="tick">{tick:g}</text>'
        for tick in x.ticks
    ]
    return [*lines, f'<text x="{(x.start + x.stop) / 2}" y="{HEIGHT - 4}" class="label">{escape(x.label)}</text>']


def _below(value: float) -> float:
    decade = 10.0 ** floor(log10(value))
    return max(step * decade for step in STEPS if step * decade <= value * 1.000001)


def _above(value: float) -> float:
    decade = 10.0 ** floor(log10(value))
    return min(step * decade for step in (*STEPS, 10) if step * decade >= value * 0.999999)


def _step(span: float) -> float:
    """A round step that divides a span into about five."""
    if span <= 0:
        return 1.0
    decade = 10.0 ** floor(log10(span / 5))
    return next(step * decade for step in (*STEPS, 10) if step * decade >= span / 5 * 0.999999)
