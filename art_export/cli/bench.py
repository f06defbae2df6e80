"""`art-export bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from art_export.cli.options import FilePath, example, json_option, model_argument, size_option
from art_export.cli.output import facts, jsonable, table
from art_export.cli.progress import StageDisplay
from engines.errors import OptionError

if TYPE_CHECKING:
    from art_export.bench.results import BenchResult, MethodResult, Summary
    from art_export.bench.settings import Settings, Task

NOTHING = "-"
GIVEN = ("art", "lora", "soft-prompt")
HEADER = (
    "method", "file to first token", "adapter", "resident", "first token", "decode/s",
    "most rows/s", "most mixed/s",
)  # fmt: skip
POSITIVE = click.IntRange(min=1)


@click.command(
    epilog=example(
        "art-export bench demo -o bench --quick",
        "art-export bench demo -o bench --task tools --art run/art.png --lora lora/adapter",
        "art-export bench Qwen/Qwen3.5-0.8B -o bench --method art --method lora-runtime",
    )
)
@model_argument
@click.option("-o", "--out", type=FilePath, required=True, help="Folder; a second run goes on.")
@click.option("--method", "methods", multiple=True, help="May be repeated.  [default: all]")
@click.option("--task", "tasks", multiple=True, help="To score on; may be repeated.")
@click.option("--art", "arts", type=FilePath, multiple=True, help="A task's picture, in order.")
@click.option("--lora", "loras", type=FilePath, multiple=True, help="A task's LoRA, in order.")
@click.option(
    "--soft-prompt", "prompts", type=FilePath, multiple=True, help="A task's soft prompt, in order."
)
@click.option("--train", is_flag=True, help="Train what no file was given for.")
@click.option("-n", "count", type=POSITIVE, default=500, show_default=True, help="Examples.")
@click.option("--repeats", type=POSITIVE, help="Turns.  [default: 3]")
@click.option("--steps", type=POSITIVE, help="Decode steps of a sample.  [default: 12]")
@click.option("--quick", is_flag=True, help="One turn, few steps, small batches.")
@click.option("--precision", default="fp32", show_default=True, help="Of the bundles.")
@click.option("--threads", type=POSITIVE, help="CPU threads.  [default: all]")
@click.option("--url", help="Address of a vLLM server, for vllm-art and vllm-lora.")
@click.option("--served-model", help="Name that the server gives the model.")
@size_option
@json_option
def command(
    model: str,
    out: Path,
    methods: tuple[str, ...],
    tasks: tuple[str, ...],
    arts: tuple[Path, ...],
    loras: tuple[Path, ...],
    prompts: tuple[Path, ...],
    train: bool,
    count: int,
    repeats: int | None,
    steps: int | None,
    quick: bool,
    precision: str,
    threads: int | None,
    url: str | None,
    served_model: str | None,
    size: int | None,
    as_json: bool,
) -> None:
    """Measure what each kind of adapter costs to put in use with MODEL, and to run.

    Every method runs in a process of its own, the methods taking turns. Speed is measured with
    random adapters, accuracy with those that are given or trained. Writes OUT/bench.json; the last
    line printed is the same as one JSON document.
    """
    from art_export.bench.run import bench
    from art_export.bench.settings import METHODS, BenchOptions

    given = _given(tasks, dict(zip(GIVEN, (arts, loras, prompts), strict=True)))
    with StageDisplay(as_json=as_json) as progress:
        if train:
            _train_missing(model, out, given, size, progress)
        result = bench(
            BenchOptions(
                model=model,
                out=out,
                methods=methods or METHODS,
                settings=_settings(repeats, steps, quick, threads),
                tasks=tuple(_task(name, count, files) for name, files in given.items()),
                precision=precision,
                size=size,
                url=url,
                served_model=served_model,
            ),
            progress,
        )
    if not as_json:
        click.echo(_describe(result))
    click.echo(json.dumps(jsonable(result.record()), ensure_ascii=False))


def _given(
    tasks: tuple[str, ...], files: dict[str, tuple[Path, ...]]
) -> dict[str, dict[str, Path]]:
    """Task -> kind of adapter -> its file.

    Raises:
        OptionError: there are more files of a kind than tasks.
    """
    for kind, paths in files.items():
        if len(paths) > len(tasks):
            raise OptionError(
                got=f"{len(paths)} times --{kind} for {len(tasks)} tasks",
                expected="at most one for each --task, in the order of the tasks",
                fix="give the tasks that they were trained for with --task",
            )
    return {
        task: {kind: paths[place] for kind, paths in files.items() if place < len(paths)}
        for place, task in enumerate(tasks)
    }


def _settings(repeats: int | None, steps: int | None, quick: bool, threads: int | None) -> Settings:
    from dataclasses import replace

    from art_export.bench.settings import QUICK, Settings

    base = QUICK if quick else Settings()
    return replace(
        base, repeats=repeats or base.repeats, steps=steps or base.steps, threads=threads
    )


def _task(name: str, count: int, files: dict[str, Path]) -> Task:
    from art_export.bench.settings import Task
    from art_export.cli.eval import held_out
    from training.data import find_source

    source = find_source(name)
    examples = held_out(source, count, hint=False)
    return Task(source.name, source.max_new_tokens, examples, source.is_correct, files)


def _train_missing(
    model: str,
    out: Path,
    given: dict[str, dict[str, Path]],
    size: int | None,
    progress: StageDisplay,
) -> None:
    """Train every kind of adapter that no file was given for, with the trainers' defaults; what an
    earlier run has trained is taken."""
    from training.baselines.lora import LoraOptions, train_lora
    from training.baselines.soft_prompt import SoftPromptOptions, train_soft_prompt
    from training.run import TrainOptions
    from training.run import train as train_picture

    for task, files in given.items():
        home = out / "trained" / Path(task).stem
        for kind in [each for each in GIVEN if each not in files]:
            run = home / kind
            files[kind] = run / ("art.png" if kind == "art" else "adapter")
            if (run / "run.json").is_file() and not (run / "checkpoint.pt").exists():
                continue
            resume = (run / "checkpoint.pt").exists()
            if kind == "art":
                train_picture(
                    TrainOptions(model, task, run, size=size, resume=resume, controls=False),
                    progress,
                )
            elif kind == "lora":
                train_lora(LoraOptions(model, task, run, resume=resume), progress)
            else:
                train_soft_prompt(SoftPromptOptions(model, task, run, resume=resume), progress)


def _describe(result: BenchResult) -> str:
    environment = facts([(name, value) for name, value in result.environment.items()])
    rows = [_row(name, method) for name, method in result.methods.items() if method.measured]
    absent = [
        f"{name}: not measured: {method.reason}"
        for name, method in result.methods.items()
        if not method.measured
    ]
    targets = [
        (each.name, each.wanted, f"{each.value:.3g}", "met" if each.met else "missed")
        for each in result.targets
    ]
    parts = [
        environment,
        table(HEADER, rows),
        "\n".join(absent),
        table(("ratio", "value"), [(n, f"{value:.3g}") for n, value in result.ratios.items()]),
        table(("floor", "value"), [(n, f"{value:.4g}") for n, value in result.floors.items()]),
        table(("target", "wanted", "value", ""), targets),
    ]
    return "\n\n".join(part for part in parts if part)


def _row(name: str, method: MethodResult) -> tuple[str, ...]:
    from engines.files import size_text

    places = method.to_first_token
    first = places.get("warm process") or next(iter(places.values()), None)
    resident = method.resident_bytes_per_adapter
    return (
        name,
        NOTHING if first is None else f"{first.median:.3g} s",
        NOTHING if method.adapter_bytes is None else size_text(method.adapter_bytes),
        NOTHING if resident is None else f"{resident / 1e6:.2f} MB",
        _number(method.time_to_first_token, " s"),
        _number(method.decode_tokens_per_second),
        _number(next(reversed(list(method.throughput.values())), None)),
        _number(next(reversed(list(method.mixed.values())), None)),
    )


def _number(summary: Summary | None, unit: str = "") -> str:
    return NOTHING if summary is None else f"{summary.median:.3g}{unit}"
