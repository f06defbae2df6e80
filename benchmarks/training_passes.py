"""What a step costs as it is run, beside one pass for the whole batch (`training.passes`).

    python -m benchmarks.training_passes --task tools --objective sft --batch 16 --steps 20
    python -m benchmarks.training_passes --task math --objective grpo --batch 4 --steps 8

The shipped model on one thread. Both train a picture of their own on the same batches, in turn, and
rollouts are drawn before the clock starts. The last line is one JSON document: median CPU seconds a
step, and positions of the decoder over all steps.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch

from training import likelihood, passes
from training.batches import Batch
from training.encoding import after_picture
from training.loop import Loop, LoopOptions
from training.objectives import Material, load_objective, make_objective
from training.options import TrainOptions, settle
from training.picture import grey_start
from training.policy import PrefixPolicy
from training.run import make_learner
from training.setup import load_setup, picture_size
from training.store import OthersFolder

MODEL, EXAMPLES, NOWHERE = "demo", 1024, Path("nowhere")
WAYS = {"one pass": sys.maxsize, "planned": passes.COST["cpu"]}
"""What another pass costs, in positions: in the first so much that there is none."""


def measure(task: str, objective: str, batch: int, steps: int) -> dict[str, Any]:
    """Way -> median CPU seconds a step and positions; one step before is not counted."""
    given = TrainOptions(
        MODEL, task, NOWHERE, batch_size=batch, validation_examples=2, objective=objective,
        examples=EXAMPLES,
    )  # fmt: skip
    options = settle(given)
    setup = load_setup(options, picture_size(MODEL, None))
    prefix = len(setup.chat.prefix_ids())
    asked = make_objective(
        load_objective(objective), Material(setup, batch, 0, after_picture, prefix)
    )
    batches: list[Sequence[Any]] = []
    draw = asked.batch
    asked.batch = lambda policy, step: batches[step]  # type: ignore[method-assign]
    start, constant = grey_start(setup.parts.picture_size, 0), LoopOptions(steps, "constant", 1, 1)
    loops = {
        way: Loop(make_learner(options, setup, start), asked, constant, OthersFolder(NOWHERE), {})
        for way in WAYS
    }
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    positions = dict.fromkeys(WAYS, 0)
    for step in range(steps + 1):
        batches.append(draw(loops["planned"].learner.policy(step), step))
        for way in sorted(WAYS, reverse=bool(step % 2)):
            passes.COST["cpu"], loops[way].at.step = WAYS[way], step
            found: list[passes.Pass] = []
            with mock.patch.object(likelihood, "passes_of", _keeping(found)):
                began = time.process_time()
                loops[way].step(1.0)
                spent = time.process_time() - began
            if step:
                seconds[way].append(spent)
                positions[way] += sum(one.positions for one in found)
    return {
        way: {"cpu_seconds": statistics.median(seconds[way]), "positions": positions[way]}
        for way in WAYS
    }


def _keeping(found: list[passes.Pass]) -> Callable[[PrefixPolicy, Batch], list[passes.Pass]]:
    """`passes_of`, which also adds to `found` what it plans."""

    def plan(policy: PrefixPolicy, batch: Batch) -> list[passes.Pass]:
        planned = passes.passes_of(policy, batch)
        found.extend(planned)
        return planned

    return plan


@click.command()
@click.option("--task", default="tools", show_default=True)
@click.option("--objective", default="sft", show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--steps", default=20, show_default=True)
def main(task: str, objective: str, batch: int, steps: int) -> None:
    """Measure one objective on one task."""
    torch.set_num_threads(1)
    found = measure(task, objective, batch, steps)
    for way, numbers in found.items():
        click.echo(f"{way}: {numbers['cpu_seconds']:.3f} s, {numbers['positions']} positions")
    told = {"task": task, "objective": objective, "batch": batch, "steps": steps}
    click.echo(json.dumps(told | found))


if __name__ == "__main__":
    main()
