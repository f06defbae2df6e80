"""Accuracy on held-out examples, with intervals."""

from __future__ import annotations

from art_export.report.blocks import Block, Chart, Heading, Section, Table, Text
from art_export.report.charts import Bar, BarChart
from art_export.report.deployment import method_name
from art_export.report.numbers import share
from art_export.report.sources import Accuracy, Sources


def section(sources: Sources) -> Section | None:
    """Every accuracy from eval and bench, by task."""
    by_task: dict[str, list[tuple[str, Accuracy]]] = {}
    for way, found in _all(sources):
        by_task.setdefault(found.task, []).append((way, found))
    if not by_task:
        return None
    blocks: list[Block] = [
        Text("Greedy answers to examples that no training saw; 95 % intervals of Wilson's score.")
    ]
    for task, rows in by_task.items():
        blocks += [Heading(task), _chart(task, rows)]
    return Section("accuracy", "Accuracy", tuple(blocks))


def _all(sources: Sources) -> list[tuple[str, Accuracy]]:
    found = [(accuracy.way, accuracy) for accuracy in sources.accuracies]
    for bench in sources.benches:
        for method in bench.methods:
            name = f"{method_name(method.name)}, {bench.model}"
            found += [(name, accuracy) for accuracy in method.accuracy]
    return found


def _chart(task: str, rows: list[tuple[str, Accuracy]]) -> Chart:
    bars = tuple(
        Bar(
            label=way,
            value=found.accuracy,
            text=share(found.accuracy),
            low=found.low,
            high=found.high,
            colour=number,
        )
        for number, (way, found) in enumerate(rows)
    )
    told = "; ".join(f"{way} {share(found.accuracy)} ({_interval(found)})" for way, found in rows)
    drawing = BarChart(
        title=f"Share of right answers, {task}",
        alt=f"Accuracy on {task} with 95 % intervals: {told}.",
        axis="share of right answers",
        bars=bars,
        limits=(0.0, 1.0),
        dots=True,
    )
    return Chart(f"accuracy-{task}", drawing, _table(task, rows))


def _table(task: str, rows: list[tuple[str, Accuracy]]) -> Table:
    lines = tuple(
        (
            way,
            share(found.accuracy),
            _interval(found),
            f"{found.correct:,} of {found.n:,}",
        )
        for way, found in rows
    )
    header = ("with", "accuracy", "95 % interval", "right")
    return Table(f"Accuracy on {task}", header, lines)


def _interval(found: Accuracy) -> str:
    # Spaces that do not break: a narrow column would put each number on a line of its own.
    return f"{share(found.low)}\u00a0to\u00a0{share(found.high)}"
