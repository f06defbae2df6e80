"""Print what benchmarks/adapters.py and benchmarks/objectives.py have measured, as Markdown:

python -m benchmarks.table benchmarks/results/adapters.json benchmarks/results/objectives.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from art_export.evaluate import wilson_interval
from art_export.paired import mcnemar

TASKS = {"tools": "tool calls, strict JSON", "math": "word problems, `Answer: <number>`"}
WAYS = (
    "base", "text instruction", "few-shot prompt", "long prompt", "untrained noise",
    "untrained artwork", "soft prompt", "LoRA r=8", "LoRA r=16", "ART", "ART epsilon 64/255",
    "ART epsilon 32/255", "ART epsilon 16/255", "ART epsilon 16/255, 400 steps", "GRPO",
    "GRPO at rate 0.3, 225 steps", "GRPO epsilon 32/255", "GRPO epsilon 32/255, 150 steps",
    "GRPO epsilon 32/255, groups of 16", "distilled",
)  # fmt: skip
"""The table's rows, in this order."""
RIVAL = "LoRA r=8"
NOTHING = "-"
Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """All cells of one or more files."""

    cells: Sequence[Cell]

    @classmethod
    def load(cls, paths: Sequence[Path]) -> Results:
        found: list[Cell] = []
        for path in paths:
            kept = json.loads(path.read_text())
            if "cells" not in kept:
                raise click.ClickException(f"{path} has no cells: it is another script's")
            found += kept["cells"].values()
        return cls(found)

    def of(self, way: str, task: str | None = None) -> list[Cell]:
        """One cell a seed (and a task)."""
        chosen = [c for c in self.cells if c["way"] == way and task in (None, c["task"])]
        return sorted(chosen, key=lambda cell: cell["seed"])

    def accuracy(self, way: str, task: str) -> float | None:
        """Mean over seeds, None where nothing was measured."""
        return fmean(c["accuracy"] for c in self.of(way, task)) if self.of(way, task) else None


def accuracy_text(cells: Sequence[Cell]) -> str:
    """Mean over seeds with the Wilson interval that one seed with it would have: all seeds meet
    the same examples, so they make no interval narrower."""
    if not cells:
        return "not measured"
    n, mean = cells[0]["n"], fmean(cell["accuracy"] for cell in cells)
    low, high = wilson_interval(round(mean * n), n)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def table(results: Results) -> Iterator[str]:
    """The rows of which at least one cell was measured."""
    head = ["", *TASKS.values(), "seeds", "adapter", "context tokens", "steps", "training, CPU s"]
    yield _row(head)
    yield "|---" * len(head) + "|"
    for way in WAYS:
        cells = results.of(way)
        if cells:
            accuracies = [accuracy_text(results.of(way, task)) for task in TASKS]
            yield _row([way, *accuracies, *_costs(cells)])


def _costs(cells: Sequence[Cell]) -> list[str]:
    trained = [cell["train"] for cell in cells if "train" in cell]
    size = [cell["bytes"] / 1000 for cell in cells if "bytes" in cell]
    context = [cell["context_tokens"] for cell in cells if "context_tokens" in cell]
    return [
        ", ".join(str(seed) for seed in sorted({cell["seed"] for cell in cells})),
        f"{fmean(size):.0f} kB" if size else NOTHING,
        f"{fmean(context):.0f}" if context else NOTHING,
        f"{fmean(one['steps'] for one in trained):.0f}" if trained else NOTHING,
        f"{fmean(one['cpu_seconds'] for one in trained):.0f}" if trained else NOTHING,
    ]


def paired(results: Results) -> Iterator[str]:
    """Every picture against LoRA on the same examples, seed by seed."""
    for way in WAYS:
        for cell in results.of(way):
            rival = [c for c in results.of(RIVAL, cell["task"]) if c["seed"] == cell["seed"]]
            if way != RIVAL and "train" in cell and rival:
                found = mcnemar(_marks(cell), _marks(rival[0]))
                yield (
                    f"- {way}, {cell['task']}, seed {cell['seed']}: "
                    f"{100 * found.difference:+.1f} points against {RIVAL} "
                    f"({found.b} right for it alone, {found.c} for {RIVAL} alone, "
                    f"p = {found.p_value:.2g})"
                )


def goals(results: Results) -> Iterator[str]:
    """What is to be reached, and what was."""
    for task in TASKS:
        found = {way: results.accuracy(way, task) for way in WAYS}
        art, rival, base = (found[way] for way in ("ART", RIVAL, "base"))
        if art is not None and rival is not None:
            points = 100 * (art - rival)
            yield f"- {task}: ART {points:+.1f} points against {RIVAL}; goal: -2 or more"
        for way in WAYS:
            reached = found[way] if way.startswith("GRPO") else None
            if art is not None and base is not None and reached is not None:
                share = (reached - base) / (art - base)
                yield f"- {task}: {way} has {share:.3f} of supervised training's gain; goal: 0.9"
        prompt, picture = found["long prompt"], found["distilled"]
        if prompt and picture is not None:
            share = picture / prompt
            yield f"- {task}: distilled has {share:.3f} of its prompt's accuracy; goal: 0.95"


def first_token(results: Results) -> Iterator[str]:
    """Tokens read and time to the first token, after the prompt and after the picture."""
    for cell in results.of("first token"):
        yield _row([cell["task"], "tokens in context", "read for a question", "ms", "CPU ms"])
        yield "|---" * 5 + "|"
        for name, way in cell["ways"].items():
            counts = [f"{way['context_tokens']:.0f}", f"{way['read_tokens']:.0f}"]
            yield _row([name, *counts, _times(way["seconds"]), _times(way["cpu_seconds"])])


def _times(seconds: Mapping[str, float]) -> str:
    """Median and quartiles in milliseconds."""
    median, low, high = (1000 * seconds[key] for key in ("median", "low", "high"))
    return f"{median:.1f} ({low:.1f} to {high:.1f})"


def _marks(cell: Cell) -> list[bool]:
    return [mark == "1" for mark in cell["marks"]]


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


@click.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
def main(results: tuple[Path, ...]) -> None:
    """Print RESULTS as Markdown."""
    found = Results.load(results)
    for part in (table, goals, paired, first_token):
        lines = list(part(found))
        if lines:
            click.echo("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
