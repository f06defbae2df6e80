"""The table in the README: both shipped tasks, every way to ask for the wanted form.

    python benchmarks/shipped_tasks.py -o runs/table

Trains a picture and a LoRA per task with the trainers' defaults, builds the engine once for the
pictures and once more for each merged LoRA, and scores everything on held-out examples through the
compiled engine, greedily, with pictures as reloaded from disk. What is already in the output
folder is not computed again. Ends with one JSON line, and writes it to OUT/result.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from art_export.build import BuildOptions, build
from art_export.bundle import Bundle
from art_export.evaluate import Score, evaluate
from art_export.subject import Subject, open_subject
from engines.environment import environment
from engines.files import write_json
from engines.picture import save_picture
from training.baselines.lora import LoraOptions, save_merged, train_lora
from training.controls import control_pictures
from training.run import TrainOptions, train
from training.tasks import TASKS, Task


class Table:
    """Rows of the table, kept in OUT/rows.json as they are measured."""

    def __init__(self, out: Path, count: int, seed: int) -> None:
        self.out, self.count, self.seed = out, count, seed
        self.path = out / "rows.json"
        self.rows: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, task: Task, way: str, row: dict[str, Any]) -> None:
        self.rows[f"{task.name}/{way}"] = {"task": task.name, "way": way, **row}
        write_json(self.path, self.rows)
        click.echo(json.dumps(self.rows[f"{task.name}/{way}"]))

    def missing(self, task: Task, way: str) -> bool:
        return f"{task.name}/{way}" not in self.rows

    def score(self, subject: Subject, task: Task, *, hint: bool = False) -> Score:
        examples = task.examples("test", self.count, hint=hint)
        return evaluate(subject.completer(task.max_new_tokens), examples, task.is_correct)


def _pictures(table: Table, task: Task, size: int) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """(way, PNG, what is known of its training)."""
    for name, pixels in control_pictures(size, table.seed).items():
        path = table.out / f"{name}.png"
        save_picture(path, pixels, None)
        yield f"untrained picture: {name}", path, {}
    run = table.out / f"art-{task.name}"
    if table.missing(task, "ART"):
        resume = (run / "checkpoint.pt").exists()
        options = TrainOptions("demo", task.name, run, seed=table.seed, resume=resume)
        result = train(options, lambda stage, done, total: None)
        known = {"seconds": result.seconds, "step_seconds": result.step_seconds}
        known |= {"steps": result.steps, "validation": result.score, "best_step": result.step}
        yield "ART", result.picture, known


def _score_pictures(table: Table, task: Task, bundle: Path) -> None:
    with open_subject(str(bundle), "none") as subject:
        for way, hint in (("no picture", False), ("text hint", True)):
            if table.missing(task, way):
                table.add(task, way, asdict(table.score(subject, task, hint=hint)))
    with Bundle.load(bundle) as loaded:
        for way, path, known in _pictures(table, task, loaded.folder.manifest.picture_size):
            if table.missing(task, way):
                swapped = loaded.swap(path, path.parent.name if way == "ART" else path.stem)
                seen = Subject(loaded.runtime, loaded.prefix(swapped.name), swapped.name, ())
                score = asdict(table.score(seen, task))
                ships = path.stat().st_size
                table.add(
                    task, way, score | {"train": known, "swap": swapped.seconds, "bytes": ships}
                )


def _score_lora(table: Table, task: Task) -> None:
    if not table.missing(task, "LoRA r=8"):
        return
    home = table.out / f"lora-{task.name}"
    resume = (home / "run" / "checkpoint.pt").exists()
    result = train_lora(
        LoraOptions("demo", task.name, home / "run", seed=table.seed, resume=resume)
    )
    known = {"seconds": result.seconds, "step_seconds": result.step_seconds}
    known |= {"steps": result.steps, "validation": result.score, "best_step": result.step}
    began = time.perf_counter()
    merged = save_merged("demo", result.adapter, home / "merged")
    seconds = {"merge": time.perf_counter() - began}
    built = build(BuildOptions(str(merged), home / "bundle"))
    seconds |= {f"build: {stage}": spent for stage, spent in built.seconds.items()}
    adapter = sum(path.stat().st_size for path in result.adapter.iterdir())
    with open_subject(str(home / "bundle"), "none") as subject:
        score = asdict(table.score(subject, task))
    table.add(
        task,
        "LoRA r=8",
        score | {"train": known, "deploy": seconds, "bytes": adapter, "engine_bytes": built.bytes},
    )


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@click.option("-n", "count", default=1000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--task", "names", multiple=True, default=("tools", "math"), show_default=True)
def main(out: Path, count: int, seed: int, names: tuple[str, ...]) -> None:
    """Measure the README's table into OUT."""
    out.mkdir(parents=True, exist_ok=True)
    table = Table(out, count, seed)
    bundle = out / "bundle"
    if not bundle.exists():
        built = build(BuildOptions("demo", bundle))
        write_json(out / "build.json", {"seconds": built.seconds, "bytes": built.bytes})
    for name in names:
        _score_pictures(table, TASKS[name], bundle)
        _score_lora(table, TASKS[name])
    result = {
        "n": count,
        "seed": seed,
        "build": json.loads((out / "build.json").read_text()),
        "rows": list(table.rows.values()),
        "environment": environment(),
    }
    write_json(out / "result.json", result)
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
