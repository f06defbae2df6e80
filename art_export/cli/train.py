"""`art-export train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from art_export.cli.options import FilePath, example, json_option, model_argument, size_option
from art_export.cli.output import facts, percent, print_json, seconds, table
from art_export.cli.progress import StageDisplay

if TYPE_CHECKING:
    from training.options import TrainResult


@click.command(
    epilog=example(
        "art-export train demo --task tools -o run",
        "art-export train ./my-model --task examples.jsonl -o run --steps 300",
        "art-export train demo --task math -o run --init cat.png --epsilon 32/255",
    )
)
@model_argument
@click.option("--task", required=True, help="math, tools, or a JSONL file of prompts and answers.")
@click.option(
    "-o", "--out", type=FilePath, required=True, help="Folder of the run; must not exist yet."
)
@click.option("--objective", default="sft", show_default=True, help="What is optimised.")
@click.option("--steps", type=int, help="Optimiser steps.  [default: 400]")
@click.option("--lr", type=float, help="Learning rate.  [default: 0.3, or epsilon/16]")
@click.option("--batch-size", default=16, show_default=True, help="Examples a step.")
@click.option("--seed", default=0, show_default=True, help="Of the data and of the start.")
@size_option
@click.option("--init", type=FilePath, help="PNG to start from, instead of grey with noise.")
@click.option("--epsilon", help="Farthest that a colour may move from --init, such as 32/255.")
@click.option("--examples", type=int, help="At most so many training examples.")
@click.option("--schedule", default="constant", show_default=True, help="constant or cosine.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in -o.")
@json_option
def command(
    model: str,
    task: str,
    out: Path,
    objective: str,
    steps: int | None,
    lr: float | None,
    batch_size: int,
    seed: int,
    size: int | None,
    init: Path | None,
    epsilon: str | None,
    examples: int | None,
    schedule: str,
    resume: bool,
    as_json: bool,
) -> None:
    """Train a picture that makes the frozen MODEL do a task.

    Writes art.png (best on validation, as reloaded from disk), run.json and metrics.jsonl.
    """
    from training.run import TrainOptions, train

    options = TrainOptions(
        model=model,
        task=task,
        out=out,
        objective=objective,
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        size=size,
        init=init,
        epsilon=epsilon,
        examples=examples,
        schedule=schedule,
        resume=resume,
    )
    with StageDisplay(as_json=as_json) as progress:
        result = train(options, progress)
    if as_json:
        print_json(result)
    else:
        click.echo(_describe(result))


def _describe(result: TrainResult) -> str:
    summary = facts(
        [
            ("picture", result.picture),
            ("validation", f"{percent(result.score)} exact (step {result.step})"),
            ("trained", f"{result.steps} steps in {seconds(result.seconds)}"),
            ("sha256", result.picture_sha256),
        ]
    )
    rows = [("this picture", percent(result.score))]
    rows += [(f"untrained: {name}", percent(share)) for name, share in result.controls.items()]
    parts = [summary, table(("validation", "exact"), rows)]
    parts += [f"note: {note}" for note in result.notes]
    return "\n\n".join(parts)
