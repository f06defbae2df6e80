"""What a page is made of. Sections build these, the template writes them as HTML, escaped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from art_export.report.charts import BarChart, LineChart


@dataclass(frozen=True)
class Text:
    """A paragraph; `tone` is "", "note" or "bad"."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a header, every cell text; the first of a row names it. `folded`: shown on demand,
    where the figures are many or a chart says the same."""

    kind: ClassVar[str] = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and values, one below the other."""

    kind: ClassVar[str] = "facts"
    caption: str
    rows: tuple[tuple[str, str], ...]
    folded: bool = False


@dataclass(frozen=True)
class Image:
    """A picture as a data URI. pixels: (width, height) that it is shown in; wide: takes the whole
    column, below others."""

    kind: ClassVar[str] = "image"
    uri: str
    alt: str
    caption: str
    pixels: tuple[int, int]
    wide: bool = False


@dataclass(frozen=True)
class Images:
    """Pictures side by side."""

    kind: ClassVar[str] = "images"
    images: tuple[Image, ...]


@dataclass(frozen=True)
class Chart:
    """A chart, beside it its figures as a table; `slug` names its PNG."""

    kind: ClassVar[str] = "chart"
    slug: str
    drawing: BarChart | LineChart
    table: Table | None = None


@dataclass(frozen=True)
class Heading:
    """What the following blocks are about, within a section."""

    kind: ClassVar[str] = "heading"
    text: str


Block = Text | Table | Facts | Image | Images | Chart | Heading


@dataclass(frozen=True)
class Section:
    """A part of the page; `slug` is its anchor."""

    slug: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Tile:
    """One figure that is to be seen first; `good` colours it, None leaves it as it is."""

    name: str
    value: str
    detail: str
    good: bool | None = None
