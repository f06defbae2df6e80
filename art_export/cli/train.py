"""`art-export train`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from art_export.cli.options import FilePath, example, json_option, model_argument, size_option
from art_export.cli.output import facts, percent, print_json, seconds, table
from art_export.cli.train_config import config_option, names, parse_settings
from art_export.cli.train_display import TrainDisplay

if TYPE_CHECKING:
    from training.options import TrainResult


@click.command(
    epilog=example(
        "art-export train demo --task tools -o run",
        "art-export train ./my-model --task examples.jsonl -o run --steps 300",
        "art-export train demo --task math -o run --init cat.png --epsilon 32/255",
        "art-export train demo --task tools -o run --objective distill",
        "art-export train demo --task tools -o run --objective grpo --bundle bundle",
        "art-export train --config run.yaml -o run",
    )
)
@model_argument
@config_option()
@click.option("--task", required=True, help="math, tools, or a JSONL file of prompts and answers.")
@click.option(
    "-o", "--out", type=FilePath, required=True, help="Folder of the run; must not exist yet."
)
@click.option(
    "--objective",
    default="sft",
    show_default=True,
    help="sft, dpo, distill, grpo, or your own: module:callable or file.py:callable.",
)
@click.option("--steps", type=int, help="Optimiser steps.  [default: 400]")
@click.option("--lr", type=float, help="Learning rate.  [default: 0.3, or epsilon/16]")
@click.option("--batch-size", default=16, show_default=True, help="Examples a step.")
@click.option("--accumulate", default=1, show_default=True, help="Parts that a batch is cut into.")
@click.option("--seed", default=0, show_default=True, help="Of the data and of the start.")
@size_option
@click.option("--init", type=FilePath, help="PNG to start from, instead of grey with noise.")
@click.option("--epsilon", help="Farthest that a colour may move from --init, such as 32/255.")
@click.option("--variation", default=0.0, help="Weight of the change's total variation (grain).")
@click.option("--low", default=0.0, help="Weight of the change seen from afar (tint).")
@click.option("--robust", help="What the picture is to survive: crop, jpeg, noise, resize; commas.")
@click.option("--examples", type=int, help="At most so many training examples.")
@click.option("--validation-examples", default=100, show_default=True, help="At most so many.")
@click.option("--validate-every", default=25, show_default=True, help="Steps.")
@click.option("--checkpoint-every", default=25, show_default=True, help="Steps.")
@click.option("--schedule", default="constant", show_default=True, help="constant or cosine.")
@click.option("--precision", default="fp32", show_default=True, help="Of steps: fp32 or bf16.")
@click.option("--weights", help="int8 or int4: train against weights rounded as in such bundles.")
@click.option("--device", default="cpu", show_default=True, help="Where the model is: cpu, cuda.")
@click.option("--device-map", help="auto or a JSON file: layers over several devices and disk.")
@click.option("--recompute", is_flag=True, help="Keep fewer activations, compute them twice.")
@click.option("--teacher-prompt", help="Of distill: file with the prompt to be replaced.")
@click.option("--rollout-engine", help="What writes answers in training.  [default: --bundle's]")
@click.option("--bundle", help="Compiled MODEL that writes answers in training.")
@click.option("--url", help="vLLM server that writes answers in training.")
@click.option("--set", "settings", multiple=True, help="Setting of the objective, NAME=VALUE.")
@click.option("--log-to", help="tensorboard, mlflow or both, beside metrics.jsonl.")
@click.option("--controls/--no-controls", default=True, help="Score untrained pictures at the end.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in -o.")
@json_option
def command(
    settings: tuple[str, ...],
    teacher_prompt: str | None,
    rollout_engine: str | None,
    bundle: str | None,
    url: str | None,
    robust: str | None,
    log_to: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a picture that makes the frozen MODEL do a task.

    Writes art.png (best on validation, as reloaded from disk), run.json, metrics.jsonl and
    strip.png. docs/training.md tells what each objective does.
    """
    from training import processes
    from training.run import TrainOptions, train

    own = parse_settings(
        settings, teacher_prompt=teacher_prompt, engine=rollout_engine, bundle=bundle, url=url
    )
    options = TrainOptions(**given, settings=own, robust=names(robust), log_to=names(log_to))
    with processes.main_speaks(), TrainDisplay(as_json=as_json) as display:
        result = train(options, display, [display])
    if not processes.is_main():
        return
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
    measured = [(name, _short(value)) for name, value in flat(result.measured)]
    parts += [facts(measured)] if measured else []
    parts += [f"note: {note}" for note in result.notes]
    return "\n\n".join(parts)


def flat(measured: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, object]]:
    """Nested measurements one below the other, as "outer: inner"."""
    for name, value in measured.items():
        label = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{label}: ")
        else:
            yield label, value


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
