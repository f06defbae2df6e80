"""Training curves and the scores of controls."""

from __future__ import annotations

from art_export.report.blocks import Block, Chart, Heading, Section, Table, Text
from art_export.report.charts import LineChart, Series
from art_export.report.numbers import plural, quantity, seconds, share
from art_export.report.sources import Run, Sources

_WIDE = 30.0
"""From this ratio of the greatest to the least on, a logarithmic scale shows more."""
_MORE = {"reward": "mean reward", "telling_groups": "groups with a difference, share of 1"}
"""Metrics of steps that get a chart beside the loss, where a run has them."""
_CONTROLS = {"start": "what it started from", "none": "no picture"}


def section(sources: Sources) -> Section | None:
    """The curves of every run."""
    blocks: list[Block] = []
    for run in sources.runs:
        blocks += [Heading(f"{run.name}: {run.task}"), Text(_summary(run)), *_curves(run)]
        blocks += [_validations(run)] if run.validations else []
        blocks += [_controls(run)] if run.controls else []
        blocks += [Text(note, "note") for note in run.notes]
    return Section("training", "Training", tuple(blocks)) if blocks else None


def _summary(run: Run) -> str:
    steps = plural(len(run.steps), "step")
    time = "" if run.seconds is None else f" in {seconds(run.seconds)}"
    objective = run.options.get("objective", run.kind)
    return (
        f"{objective} on {run.model}: {steps}{time}; the best on validation is that of step "
        f"{run.step:,}, with {share(run.score)} of its answers exact."
    )


def _curves(run: Run) -> list[Block]:
    charts: list[Block] = []
    loss = _metric(run, "loss")
    checked = tuple((float(v.step), v.loss) for v in run.validations if v.loss is not None)
    lines = [Series("training", loss, dotted=False)] if loss else []
    lines += [Series("validation", checked)] if checked else []
    if lines:
        charts.append(_loss_chart(run, lines))
    if run.validations:
        charts.append(_exact_chart(run))
    for name, title in _MORE.items():
        points = _metric(run, name)
        if points:
            lines = [Series(name, points, dotted=False)]
            alt = f"{title} of {run.name} by step, from {_ends(points)}."
            chart = LineChart(title.capitalize(), alt, "step", title, tuple(lines))
            charts.append(Chart(f"{run.name}-{name}", chart))
    return charts


def _loss_chart(run: Run, lines: list[Series]) -> Chart:
    values = [y for line in lines for _, y in line.points]
    log = min(values) > 0 and max(values) / min(values) > _WIDE
    told = "; ".join(f"{line.name} from {_ends(line.points)}" for line in lines)
    alt = f"Loss of {run.name} by step: {told}."
    drawing = LineChart("Loss", alt, "step", "loss, nats a token", tuple(lines), log=log)
    return Chart(f"{run.name}-loss", drawing)


def _exact_chart(run: Run) -> Chart:
    points = tuple((float(v.step), v.exact) for v in run.validations)
    alt = f"Exact answers of {run.name} on validation by step, from {_ends(points)}."
    line = Series("validation", points)
    drawing = LineChart(
        "Exact answers on validation", alt, "step", "share of 1", (line,), limits=(0.0, 1.0)
    )
    return Chart(f"{run.name}-exact", drawing)


def _metric(run: Run, name: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(step), values[name]) for step, values in run.steps if name in values)


def _ends(points: tuple[tuple[float, float], ...]) -> str:
    return f"{quantity(points[0][1])} to {quantity(points[-1][1])}"


def _validations(run: Run) -> Table:
    rows = tuple(
        (
            f"{v.step:,}",
            share(v.exact),
            "" if v.loss is None else quantity(v.loss),
            "kept" if v.best else "",
        )
        for v in run.validations
    )
    header = ("step", "exact", "loss", "")
    return Table(f"Every validation of {run.name}", header, rows, folded=True)


def _controls(run: Run) -> Table:
    rows = [("this picture" if run.picture is not None else "this adapter", share(run.score))]
    rows += [
        (_CONTROLS.get(name, f"untrained: {name}"), share(score))
        for name, score in run.controls.items()
    ]
    header = ("validation", "exact")
    return Table("Beside what nobody trained, on validation", header, tuple(rows))
