"""Measure the cells of the table that are still missing, one by one.

    python -m benchmarks.real_lm.run --data DATA

Goes through tasks, seeds and rows in turn; what is in the results' file is not computed again, and
a training that was interrupted goes on from its checkpoint. `--search` compares every learning rate
of the recipes by validation, at seed 0, before anything of a row is scored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.real_lm.command import located, run
from benchmarks.real_lm.data import FILES
from benchmarks.real_lm.place import PRECISIONS, Place, default_precision
from benchmarks.real_lm.recipes import METHODS, ROWS
from benchmarks.real_lm.results import SEARCHED, Results
from benchmarks.real_lm.scoring import BATCH, score_row
from benchmarks.real_lm.training import Training
from training.data import data_hash
from training.interruption import Interrupted
from training.options import Progress
from training.tasks import SPLITS


def measure(place: Place, results: Results, task: str, row: str, seed: int, search: bool) -> None:
    """Fill one cell."""
    recipe = ROWS[row]
    if results.has("cells", task, row, seed) or (recipe.kind == "none" and seed != SEARCHED):
        return
    if search and recipe.trained:
        for rate in recipe.rates:
            train(place, results, task, row, rate, SEARCHED)
    cell: dict[str, Any] = {
        "precision": place.precision,
        "threads": torch.get_num_threads(),
        "device": place.device_name,
    }
    adapter = None
    if recipe.trained:
        rate = results.rate(task, row)
        training = train(place, results, task, row, rate, seed)
        adapter, cell["rate"] = training.adapter, rate
        cell["tried"] = results.tried(task, row)
    found = score_row(place, task, row, seed, adapter)
    results.put("cells", task, row, seed, value=cell | found)
    told = {key: found[key] for key in ("correct", "n", "accuracy", "seconds")}
    click.echo(json.dumps({"cell": f"{task}/{row}/{seed}", **told}))


def train(place: Place, results: Results, task: str, row: str, rate: float, seed: int) -> Training:
    """Train `row`, and what it starts from, unless that is done and its result still there."""
    after, start = ROWS[row].after, None
    if after is not None:
        start = train(place, results, task, after, results.rate(task, after), seed).adapter
    training = Training(place, task, row, rate, seed, start)
    known = results.has("trainings", task, row, rate, seed)
    if known:
        training.check(results.get("trainings", task, row, rate, seed), str(results.path))
    if not known or not training.adapter.exists():
        record = training.run(_told(f"{task}/{row}/{rate:.4g}/{seed}"))
        results.put("trainings", task, row, rate, seed, value=record)
    return training


def facts(place: Place, tasks: Sequence[str]) -> dict[str, Any]:
    """task -> counts and hashes of its splits."""
    found = {}
    for task in tasks:
        splits = place.task(task).splits
        found[task] = {
            split: {"examples": len(splits[split]), "sha256": data_hash(splits[split])}
            for split in SPLITS
        }
    return found


def _told(name: str) -> Progress:
    def tell(stage: str, done: int, total: int) -> None:
        if done % 10 == 0:
            click.echo(f"{name}: {stage} {done}/{total}")

    return tell


@click.command()
@located
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(FILES)), default=list(FILES))
@click.option("--row", "rows", multiple=True, type=click.Choice(list(ROWS)), default=list(METHODS))
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=default_precision,
    show_default="bf16 where the CPU computes in it, else fp32",
    help="Of weights and arithmetic in PyTorch; one for a file of results.",
)
@click.option("--device", type=click.Choice(list(BATCH)), default="cpu", show_default=True)
@click.option("--search", is_flag=True, help="Compare the recipes' learning rates by validation.")
def main(
    model: Path,
    data: Path,
    runs: Path,
    results: Path,
    tasks: Sequence[str],
    rows: Sequence[str],
    seeds: Sequence[int],
    precision: str,
    device: str,
    search: bool,
) -> None:
    """Measure what is missing: seed by seed, task by task, row by row."""
    # fp32 is to mean fp32 on a GPU too, in the tower's convolution as in all other products.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    place = Place(model, data, runs, precision, device)
    known = Results.open(results, place.assembled(), facts(place, tasks), precision)
    known.save()
    try:
        for seed in seeds:
            for task in tasks:
                for row in rows:
                    measure(place, known, task, row, seed, search)
    except Interrupted:
        click.echo("stopped after a checkpoint; the same command goes on")


if __name__ == "__main__":
    run(main)
