"""Blocks as HTML: every text is escaped by the template engine, and SVG by the writer of XML."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from art_export import __version__
from art_export.report.blocks import Chart, Section, Tile


def render(title: str, tiles: Sequence[Tile], sections: Sequence[Section]) -> str:
    """The page as HTML."""
    template = _environment().get_template("page.html")
    return template.render(title=title, tiles=tiles, sections=sections, version=__version__)


def render_chart(chart: Chart) -> str:
    """A page with one chart and nothing else, for a picture of it."""
    return _environment().get_template("chart.html").render(chart=chart)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("art_export.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
