"""Print the README's table from a result of benchmarks/shipped_tasks.py:

python benchmarks/table.py benchmarks/results/shipped_tasks.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

NAMES = {"tools": "tool calls, strict JSON", "math": "word problems, `Answer: <number>`"}


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not measured"
    return f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _cost(rows: dict[tuple[str, str], dict[str, Any]], way: str, tasks: list[str]) -> str:
    row = rows[(tasks[0], way)]
    if way == "ART":
        return f"{row['swap']['total'] * 1000:.0f} ms, swap in a warm process"
    if "deploy" in row:
        seconds = row["deploy"]["merge"] + row["deploy"]["build: total"]
        return f"{seconds:.1f} s, merge, export and build"
    return "-"


@click.command()
@click.argument("result", type=click.Path(path_type=Path, exists=True))
def main(result: Path) -> None:
    """Print RESULT as Markdown."""
    measured = json.loads(result.read_text())
    rows = {(row["task"], row["way"]): row for row in measured["rows"]}
    tasks = list(dict.fromkeys(task for task, _ in rows))
    ways = list(dict.fromkeys(way for _, way in rows))
    click.echo(f"| | {' | '.join(NAMES[task] for task in tasks)} | adapter | to put in use |")
    click.echo(f"|---|{'---|' * len(tasks)}---|---|")
    for way in ways:
        cells = " | ".join(_cell(rows.get((task, way))) for task in tasks)
        size = rows[(tasks[0], way)].get("bytes")
        shown = "-" if size is None else f"{size / 1000:.0f} kB"
        click.echo(f"| {way} | {cells} | {shown} | {_cost(rows, way, tasks)} |")


if __name__ == "__main__":
    main()
