"""Tokens a second against the number of adapters in a batch, and against its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from art_export.report.blocks import Block, Chart, Heading, Section, Table
from art_export.report.charts import LineChart, Series
from art_export.report.deployment import bench_name, method_name
from art_export.report.numbers import quantity
from art_export.report.sources import Bench, Method, Sources, Spread

Measured = Callable[[Method], Mapping[int, Spread]]


def section(sources: Sources) -> Section | None:
    """Both curves of every bench that measured them."""
    blocks: list[Block] = []
    for number, bench in enumerate(sources.benches, 1):
        found = [
            *_curve(bench, f"adapters-{number}", "different adapters in a batch", _mixed),
            *_curve(bench, f"batch-{number}", "rows in a batch", _plain),
        ]
        blocks += [Heading(bench_name(bench)), *found] if found else []
    return Section("throughput", "Throughput", tuple(blocks)) if blocks else None


def _mixed(method: Method) -> Mapping[int, Spread]:
    return method.mixed


def _plain(method: Method) -> Mapping[int, Spread]:
    return method.throughput


def _curve(bench: Bench, slug: str, x: str, of: Measured) -> list[Block]:
    methods = [method for method in bench.methods if of(method)]
    if not methods:
        return []
    series = tuple(_line(method_name(method.name), of(method)) for method in methods)
    told = "; ".join(f"{line.name} {_ends(line)}" for line in series)
    chart = LineChart(
        title=f"Tokens a second, by {x}",
        alt=f"Tokens a second by {x}, {bench.model}: {told}.",
        x=x,
        y="tokens a second",
        series=series,
        doubling=True,
    )
    numbers = sorted({number for method in methods for number in of(method)})
    rows = tuple(
        (method_name(method.name), *(_cell(of(method).get(number)) for number in numbers))
        for method in methods
    )
    header = ("method", *(f"{number:,}" for number in numbers))
    return [Chart(slug, chart, Table(f"Tokens a second, by {x}", header, rows))]


def _line(name: str, found: Mapping[int, Spread]) -> Series:
    points = tuple((float(number), spread.median) for number, spread in found.items())
    whiskers = tuple((float(number), s.low, s.high) for number, s in found.items())
    return Series(name, points, whiskers)


def _ends(line: Series) -> str:
    (first, low), (last, high) = line.points[0], line.points[-1]
    return f"{quantity(low)} at {first:g}, {quantity(high)} at {last:g}"


def _cell(spread: Spread | None) -> str:
    return "" if spread is None else quantity(spread.median)
