"""Pages: HTML documents, tables, charts and heat maps for reports that are one file; tables on a terminal."""

from glassworks.pages.chart import Axis, Linear, Point, bars, curves
from glassworks.pages.document import document, heat, section, table
from glassworks.pages.terminal import facts, format_value

__all__ = ["Axis", "Linear", "Point", "bars", "curves", "document", "facts", "format_value", "heat", "section", "table"]
