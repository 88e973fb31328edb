"""Pages: HTML documents, tables, charts and heat maps as plain text, for every report that is one file."""

from glassworks.pages.chart import Axis, Linear, Point, bars, curves
from glassworks.pages.document import document, heat, section, table

__all__ = ["Axis", "Linear", "Point", "bars", "curves", "document", "heat", "section", "table"]
