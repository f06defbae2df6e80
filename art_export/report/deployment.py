"""What it takes to put an adapter into use, by method."""

from __future__ import annotations

from art_export.report.blocks import Block, Chart, Facts, Heading, Section, Table, Text
from art_export.report.charts import Bar, BarChart
from art_export.report.numbers import plural, quantity, seconds, size
from art_export.report.sources import Bench, Method, Sources, Spread, Target

NAMES = {
    "art": "ART: a picture swapped in",
    "lora-merge": "LoRA merged, engine rebuilt",
    "lora-runtime": "LoRA as inputs of the graph",
    "lora-refit": "LoRA by TensorRT refit",
    "soft-prompt": "Soft prompt as embeddings",
    "vllm-art": "vLLM: a picture in the chat",
    "vllm-lora": "vLLM: LoRA loaded",
}
STATES = {
    "warm process, prepared elsewhere": "from a replica",
    "running server": "server",
}
"""What a bar has room for; tables and alt texts have the whole."""
_NOT = "not measured"


def method_name(name: str) -> str:
    """A method in words; one that is not known here as it is."""
    return NAMES.get(name, name)


def section(sources: Sources) -> Section | None:
    """Deployment times, costs, ratios and targets of every bench."""
    blocks: list[Block] = []
    for number, bench in enumerate(sources.benches, 1):
        blocks += [Heading(bench_name(bench)), Text(_conditions(bench)), *_times(bench, number)]
        blocks += [_steps(bench), _costs(bench), *_unmeasured(bench), *_limits(bench)]
        blocks += [
            Text(f"{method_name(method.name)}: {note}", "note")
            for method in bench.methods
            for note in method.notes
        ]
    return Section("deployment", "Putting an adapter into use", tuple(blocks)) if blocks else None


def bench_name(bench: Bench) -> str:
    """The bench in one line."""
    return f"{bench.model} on {bench.engine}, {bench.precision}"


def spread_text(spread: Spread) -> str:
    """Seconds: the median, and the 10th and 90th percentile."""
    if spread.n == 1:
        return seconds(spread.median)
    return f"{seconds(spread.median)} ({seconds(spread.low)} to {seconds(spread.high)})"


def _conditions(bench: Bench) -> str:
    threads, repeats = plural(bench.threads, "thread"), plural(bench.repeats, "repeat")
    return (
        f"File to first token, {repeats} on {threads}: the median and, in brackets and as a "
        "whisker, the 10th to the 90th percentile."
    )


def _times(bench: Bench, number: int) -> list[Block]:
    colours = {method.name: index for index, method in enumerate(bench.methods)}
    rows = [
        (method, state, spread)
        for method in bench.methods
        for state, spread in method.to_first_token.items()
    ]
    if not rows:
        return []
    rows.sort(key=lambda row: row[2].median)
    bars = tuple(
        Bar(
            label=f"{method_name(method.name)}, {STATES.get(state, state)}",
            value=spread.median,
            text=seconds(spread.median),
            low=spread.low,
            high=spread.high,
            colour=colours[method.name],
        )
        for method, state, spread in rows
    )
    told = "; ".join(
        f"{method_name(method.name)}, {state} {seconds(spread.median)}"
        for method, state, spread in rows
    )
    chart = BarChart(
        title="From the adapter's file to the first token",
        alt=f"Seconds from file to first token, {bench.model}: {told}.",
        axis="seconds",
        bars=bars,
        log=True,
    )
    table = tuple((method_name(m.name), state, spread_text(spread)) for m, state, spread in rows)
    header = ("method", "into", "time")
    return [Chart(f"deployment-{number}", chart, Table("File to first token", header, table))]


def _steps(bench: Bench) -> Table:
    rows = tuple(
        (method_name(method.name), step, spread_text(spread))
        for method in bench.methods
        for step, spread in method.steps
    )
    return Table("Every step of it", ("method", "step", "time"), rows, folded=True)


def _costs(bench: Bench) -> Table:
    rows = tuple(_cost(method) for method in bench.methods if method.measured)
    header = ("method", "adapter on disk", "memory a further one", "first token", "decode")
    return Table("What an adapter costs", header, rows)


def _cost(method: Method) -> tuple[str, ...]:
    first, decode = method.time_to_first_token, method.decode
    return (
        method_name(method.name),
        _NOT if method.adapter_bytes is None else size(method.adapter_bytes),
        _NOT if method.resident_bytes is None else size(method.resident_bytes),
        _NOT if first is None else seconds(first.median),
        _NOT if decode is None else f"{quantity(decode.median)} tokens/s",
    )


def _unmeasured(bench: Bench) -> list[Block]:
    missing = [method for method in bench.methods if not method.measured]
    rows = tuple((method_name(m.name), m.reason or "no reason given") for m in missing)
    return [Facts("Not measured, and why", rows)] if rows else []


def _limits(bench: Bench) -> list[Block]:
    blocks: list[Block] = []
    if bench.targets:
        rows = tuple(_target(target) for target in bench.targets)
        header = ("target", "wanted", "measured", "")
        blocks.append(Table("Targets", header, rows))
    for caption, figures in (("Ratios", bench.ratios), ("Floors", bench.floors)):
        facts = tuple((name, quantity(value)) for name, value in figures.items())
        blocks += [Facts(caption, facts, folded=True)] if facts else []
    return blocks


def _target(target: Target) -> tuple[str, ...]:
    value = _NOT if target.value is None else quantity(target.value)
    return target.name, target.wanted, value, "met" if target.met else "not met"
