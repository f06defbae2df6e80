"""Charts as SVG that takes its colours from the page, so that they follow light and dark.

Written for a column of 560 units; on a phone the page makes the letters larger in these units, so
margins have room for that. Labels stand above their bars: long names need no margin.
"""

from __future__ import annotations

import xml.etree.ElementTree as Xml
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from art_export.report.numbers import quantity
from art_export.report.scales import Scale, doublings, linear, logarithmic

WIDTH = 560
COLOURS = 7
"""Classes s0 to s6 of the style sheet."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 20, 34, 64
_PLOT = 210
_ROW, _BAR, _BAR_TOP = 50, 14, 24
_LINE = 48
"""Letters of label and value together that fit above a bar, at a phone's size."""
_LARGEST = 500
"""Points of a line; more are averaged in groups."""


@dataclass(frozen=True)
class Bar:
    """A labelled bar. text: its value as people read it. low, high: ends of a whisker. mark: a
    limit to be drawn across. colour: 0 up."""

    label: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    mark: float | None = None
    colour: int = 0


@dataclass(frozen=True)
class BarChart:
    """Bars below each other. `alt` says what is to be seen. `axis` is the unit. `dots`: values are
    points on a scale, not lengths."""

    title: str
    alt: str
    axis: str
    bars: tuple[Bar, ...]
    log: bool = False
    limits: tuple[float, float] | None = None
    dots: bool = False

    @property
    def legend(self) -> tuple[tuple[str, Markup], ...]:
        """Nothing: every bar has its name."""
        return ()

    def svg(self) -> Markup:
        """The chart as an element for an HTML page."""
        return _bars(self)


@dataclass(frozen=True)
class Series:
    """A line through (x, y); `spread` are (x, low, high) of its whiskers; `dotted`: each point is
    shown."""

    name: str
    points: tuple[tuple[float, float], ...]
    spread: tuple[tuple[float, float, float], ...] = ()
    dotted: bool = True


@dataclass(frozen=True)
class LineChart:
    """Lines over a common x. `alt` says what is to be seen. `doubling`: x are chosen numbers such
    as 1, 4, 16, evenly apart. `limits` fixes y."""

    title: str
    alt: str
    x: str
    y: str
    series: tuple[Series, ...]
    log: bool = False
    doubling: bool = False
    limits: tuple[float, float] | None = None

    @property
    def legend(self) -> tuple[tuple[str, Markup], ...]:
        """Name and sample of every line, if there is more than one."""
        if len(self.series) < 2:
            return ()
        return tuple((line.name, _sample(number, line)) for number, line in enumerate(self.series))

    def svg(self) -> Markup:
        """The chart as an element for an HTML page."""
        return _lines(self)


# -- bars -----------------------------------------------------------------------------------------


def _bars(chart: BarChart) -> Markup:
    bottom = _ROW * len(chart.bars) + 4
    root = _root(chart.alt, bottom + 52)
    edge = 10
    scale, ticks = _value_scale(chart, edge, WIDTH - edge)
    for tick in ticks:
        _vertical(root, scale.place(tick), 0, bottom, "grid")
        _text(root, scale.place(tick), bottom + 20, quantity(tick), "tick", _anchor(scale, tick))
    title = chart.axis + (", logarithmic scale" if chart.log else "")
    _text(root, WIDTH / 2, bottom + 44, title, "tick", "middle")
    for row, bar in enumerate(chart.bars):
        _bar(root, bar, scale, _ROW * row, chart.dots)
    return _markup(root)


def _bar(root: Xml.Element, bar: Bar, scale: Scale, top: float, dots: bool) -> None:
    colour = f"s{bar.colour % COLOURS}"
    _text(root, scale.start, top + 18, _short(bar.label, _LINE - len(bar.text)), "label", "start")
    _text(root, scale.end, top + 18, bar.text, "label value", "end")
    middle, end = top + _BAR_TOP + _BAR / 2, scale.place(bar.value)
    if dots:
        _horizontal(root, scale.start, scale.end, middle, "grid")
    else:
        _add(root, "rect", x=scale.start, y=top + _BAR_TOP, height=_BAR,
             width=max(end - scale.start, 1.5), rx=2, **{"class": f"bar {colour}"})  # fmt: skip
    if bar.low is not None and bar.high is not None:
        low, high = scale.place(bar.low), scale.place(bar.high)
        whisker = f"whisker {colour}" if dots else "whisker over"
        _horizontal(root, low, high, middle, whisker)
        for place in (low, high):
            _vertical(root, place, middle - 5, middle + 5, whisker)
    if dots:
        _add(root, "circle", cx=end, cy=middle, r=6, **{"class": f"bar {colour}"})
    if bar.mark is not None:
        place = scale.place(bar.mark)
        _vertical(root, place, top + _BAR_TOP - 4, top + _BAR_TOP + _BAR + 4, "mark")


def _value_scale(chart: BarChart, start: float, end: float) -> tuple[Scale, list[float]]:
    values = [
        value
        for bar in chart.bars
        for value in (bar.value, bar.low, bar.high, bar.mark)
        if value is not None
    ]
    if chart.limits is not None:
        return _fixed(chart.limits, start, end)
    return logarithmic(values, start, end) if chart.log else linear(values, start, end)


# -- lines ----------------------------------------------------------------------------------------


def _lines(chart: LineChart) -> Markup:
    root = _root(chart.alt, _TOP + _PLOT + _BOTTOM)
    across, x_ticks, up, y_ticks = _scales(chart)
    for tick in y_ticks:
        _horizontal(root, _LEFT, WIDTH - _RIGHT, up.place(tick), "grid")
        _text(root, _LEFT - 8, up.place(tick) + 5, quantity(tick), "tick", "end")
    for tick in x_ticks:
        _vertical(root, across.place(tick), _TOP, _TOP + _PLOT, "grid")
        _text(root, across.place(tick), _TOP + _PLOT + 22, quantity(tick), "tick", "middle")
    y_title = chart.y + (", logarithmic scale" if chart.log else "")
    _text(root, 4, 17, y_title, "tick", "start")
    x_title = chart.x + (", logarithmic scale" if chart.doubling else "")
    _text(root, (_LEFT + WIDTH - _RIGHT) / 2, _TOP + _PLOT + 48, x_title, "tick", "middle")
    for number, line in enumerate(chart.series):
        _line(root, number, line, across, up)
    return _markup(root)


def _scales(chart: LineChart) -> tuple[Scale, list[float], Scale, list[float]]:
    xs = [x for line in chart.series for x, _ in line.points]
    ys = [y for line in chart.series for _, y in line.points]
    ys += [end for line in chart.series for _, low, high in line.spread for end in (low, high)]
    sideways = (_LEFT, WIDTH - _RIGHT)
    upwards = (_TOP + _PLOT, _TOP)
    across = doublings(xs, *sideways) if chart.doubling else linear(xs, *sideways)
    if chart.limits is not None:
        up = _fixed(chart.limits, *upwards)
    else:
        up = logarithmic(ys, *upwards) if chart.log else linear(ys, *upwards)
    return *across, *up


def _line(root: Xml.Element, number: int, line: Series, across: Scale, up: Scale) -> None:
    colour = f"s{number % COLOURS}"
    places = [(across.place(x), up.place(y)) for x, y in thinned(line.points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    _add(root, "polyline", points=path, **{"class": f"line {colour}"})
    for x, low, high in line.spread:
        _vertical(root, across.place(x), up.place(low), up.place(high), f"whisker {colour}")
    if line.dotted or len(places) == 1:
        for x, y in places:
            _marker(root, number, x, y, colour)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most 500 points: the mean of each group of neighbours."""
    size = -(-len(points) // _LARGEST)
    groups = [points[first : first + size] for first in range(0, len(points), max(size, 1))]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _marker(root: Xml.Element, number: int, x: float, y: float, colour: str) -> None:
    """Another shape for each line: colour alone does not tell them apart for everyone."""
    shapes = (
        "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z",
        "M-4.5 -4.5H4.5V4.5H-4.5Z",
        "M0 -6L5.5 4.5H-5.5Z",
        "M0 -6L6 0L0 6L-6 0Z",
        "M0 6L5.5 -4.5H-5.5Z",
        "M-6 -2H-2V-6H2V-2H6V2H2V6H-2V2H-6Z",
        "M-5 -3L0 -6L5 -3V3L0 6L-5 3Z",
    )
    where = f"translate({x:.1f} {y:.1f})"
    shape = shapes[number % len(shapes)]
    _add(root, "path", d=shape, transform=where, **{"class": f"bar {colour}"})


def _sample(number: int, line: Series) -> Markup:
    """A short piece of a line, for the legend."""
    root = Xml.Element("svg", {"viewBox": "0 0 36 14", "class": "key", "aria-hidden": "true"})
    colour = f"s{number % COLOURS}"
    _add(root, "polyline", points="0,7 36,7", **{"class": f"line {colour}"})
    if line.dotted:
        _marker(root, number, 18, 7, colour)
    return _markup(root)


# -- elements -------------------------------------------------------------------------------------


def _fixed(limits: tuple[float, float], start: float, end: float) -> tuple[Scale, list[float]]:
    low, high = limits
    ticks = [low + (high - low) * part / 4 for part in range(5)]
    return Scale(low, high, start, end), ticks


def _root(alt: str, height: float) -> Xml.Element:
    box = f"0 0 {WIDTH} {height:g}"
    return Xml.Element("svg", {"viewBox": box, "role": "img", "aria-label": alt})


def _add(root: Xml.Element, tag: str, **attributes: object) -> Xml.Element:
    plain = {
        name: f"{value:.5g}" if isinstance(value, float) else str(value)
        for name, value in attributes.items()
    }
    return Xml.SubElement(root, tag, plain)


def _text(root: Xml.Element, x: float, y: float, text: str, kind: str, anchor: str) -> None:
    _add(root, "text", x=float(x), y=float(y), **{"class": f"{kind} {anchor}"}).text = text


def _horizontal(root: Xml.Element, start: float, end: float, y: float, kind: str) -> None:
    _add(root, "line", x1=float(start), x2=float(end), y1=float(y), y2=float(y), **{"class": kind})


def _vertical(root: Xml.Element, x: float, start: float, end: float, kind: str) -> None:
    _add(root, "line", x1=float(x), x2=float(x), y1=float(start), y2=float(end), **{"class": kind})


def _anchor(scale: Scale, tick: float) -> str:
    """The first and the last label stay inside the drawing."""
    return {scale.low: "start", scale.high: "end"}.get(tick, "middle")


def _short(label: str, room: int) -> str:
    return label if len(label) <= room else label[: max(room - 1, 1)] + "…"


def _markup(root: Xml.Element) -> Markup:
    # Everything in it was escaped on the way to text.
    return Markup(Xml.tostring(root, encoding="unicode"))
