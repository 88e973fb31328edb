"""Pages: HTML documents, tables, charts and heat maps for reports that are one file; tables on a terminal."""

from glassworks.pages.chart import Axis, Linear, Point, bars, curves
from glassworks.pages.document import (
    bullets,
    document,
    figure,
    heading,
    heat,
    panels,
    paragraph,
    preformatted,
    section,
    side_by_side,
    table,
)
from glassworks.pages.pictures import flow, histogram, interval_bars, scatter, with_interval
from glassworks.pages.terminal import facts, findings, format_value, progress_line

__all__ = [
    "Axis",
    "Linear",
    "Point",
    "bars",
    "bullets",
    "curves",
    "document",
    "facts",
    "figure",
    "findings",
    "flow",
    "format_value",
    "heading",
    "heat",
    "histogram",
    "interval_bars",
    "panels",
    "paragraph",
    "preformatted",
    "progress_line",
    "scatter",
    "section",
    "side_by_side",
    "table",
    "with_interval",
]
