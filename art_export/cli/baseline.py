"""`art-export baseline`: what a picture is compared with, trained on the same data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from art_export.cli.options import FilePath, example, json_option, model_argument
from art_export.cli.output import facts, percent, print_json, seconds
from art_export.cli.train_display import TrainDisplay

if TYPE_CHECKING:
    from training.options import AdapterResult

Function = TypeVar("Function", bound=Callable[..., Any])

_SHARED = (
    model_argument,
    click.option("--task", required=True, help="A task's name, or a file."),
    click.option("-o", "--out", type=FilePath, required=True, help="Folder; must not exist yet."),
    click.option("--batch-size", default=16, show_default=True, help="Examples a step."),
    click.option("--accumulate", default=1, show_default=True, help="Parts of a batch."),
    click.option("--seed", default=0, show_default=True, help="Of the data and of the start."),
    click.option("--examples", type=int, help="At most so many training examples."),
    click.option("--validation-examples", default=100, show_default=True, help="At most so many."),
    click.option("--validate-every", default=25, show_default=True, help="Steps."),
    click.option("--checkpoint-every", default=25, show_default=True, help="Steps."),
    click.option("--precision", default="fp32", show_default=True, help="Of steps: fp32 or bf16."),
    click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
    click.option("--resume", is_flag=True, help="Go on with the interrupted run in -o."),
    json_option,
)


def shared(function: Function) -> Function:
    """The options of every baseline; those of `train` mean the same."""
    for option in reversed(_SHARED):
        function = option(function)
    return function


@click.group(
    subcommand_metavar="KIND [OPTIONS] MODEL",
    epilog=example(
        "art-export baseline lora demo --task tools -o run-lora",
        "art-export baseline soft-prompt demo --task tools -o run-soft",
    ),
)
def command() -> None:
    """Train a LoRA or a soft prompt with the data, batches, loss, seed and validation of a picture.

    Writes an adapter that peft loads, run.json and metrics.jsonl; `art-export eval` scores it.
    Each KIND has --help, and --json for one JSON document on stdout.
    """


@command.command(epilog=example("art-export baseline lora demo --task tools -o run --rank 16"))
@shared
@click.option("--rank", default=8, show_default=True, help="Of the matrices that are added.")
@click.option("--alpha", type=int, help="The update counts alpha/rank times.  [default: 2 * rank]")
@click.option("--steps", default=100, show_default=True, help="Optimiser steps.")
@click.option("--lr", default=2e-3, show_default=True, help="Learning rate of AdamW.")
@click.option("--schedule", default="constant", show_default=True, help="constant or cosine.")
def lora(as_json: bool, **given: Any) -> None:
    """Low-rank adapters on every linear layer of the language model."""
    from training.baselines.lora import LoraOptions, train_lora

    with TrainDisplay(as_json=as_json) as display:
        result = train_lora(LoraOptions(**given), display, [display])
    _print(result, as_json)


@command.command(
    name="soft-prompt",
    epilog=example("art-export baseline soft-prompt demo --task tools -o run --tokens 64"),
)
@shared
@click.option("--tokens", default=64, show_default=True, help="Vectors before the chat.")
@click.option(
    "--init",
    default="SAMPLE_VOCAB",
    show_default=True,
    help="Start from words drawn (SAMPLE_VOCAB), a TEXT, or RANDOM numbers.",
)
@click.option("--init-text", help="The text to start from; repeated until it is long enough.")
@click.option("--steps", default=400, show_default=True, help="Optimiser steps.")
@click.option("--lr", default=0.1, show_default=True, help="Learning rate of AdamW.")
@click.option("--schedule", default="cosine", show_default=True, help="constant or cosine.")
def soft_prompt(as_json: bool, **given: Any) -> None:
    """Prompt tuning: free vectors before the whole chat."""
    from training.baselines.soft_prompt import SoftPromptOptions, train_soft_prompt

    with TrainDisplay(as_json=as_json) as display:
        result = train_soft_prompt(SoftPromptOptions(**given), display, [display])
    _print(result, as_json)


def _print(result: AdapterResult, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    rows = [
        ("adapter", result.adapter),
        ("validation", f"{percent(result.score)} exact (step {result.step})"),
        ("trained", f"{result.trained_parameters} numbers, {result.steps} steps"),
        ("time", seconds(result.seconds)),
    ]
    click.echo("\n\n".join([facts(rows), *(f"note: {note}" for note in result.notes)]))
