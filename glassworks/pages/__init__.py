"""Pages: HTML documents, tables, charts and heat maps for reports that are one file; tables on a terminal."""

from glassworks.pages.chart import Axis, Linear, Point, bars, curves
from glassworks.pages.document import document, heat, section, table
from glassworks.pages.pictures import PICTURE_STYLE, flow, histogram, interval_bars, scatter, with_interval
from glassworks.pages.terminal import facts, format_value

__all__ = [
    "PICTURE_STYLE",
    "Axis",
    "Linear",
    "Point",
    "bars",
    "curves",
    "document",
    "facts",
    "flow",
    "format_value",
    "heat",
    "histogram",
    "interval_bars",
    "scatter",
    "section",
    "table",
    "with_interval",
]
