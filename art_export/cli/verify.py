"""`art-export verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from art_export.cli.options import bundle_argument, example, json_option
from art_export.cli.output import jsonable, print_json, table
from art_export.cli.progress import StageDisplay

if TYPE_CHECKING:
    from art_export.verify import Check, TaskSample, VerifyReport
    from engines.bundle import BundleFolder

NO_ART = "none"
HEADER = ("check", "", "max abs", "max rel", "allowed", "")


@click.command(
    epilog=example(
        "art-export verify bundle",
        "art-export verify bundle --art tools --model demo --prompts 20",
    )
)
@bundle_argument
@click.option("--art", help="Stored picture, or none.  [default: the one in use]")
@click.option("--model", help="The untouched base model.  [default: what the bundle names]")
@click.option(
    "--prompts",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Greedy answers to compare.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    help="Task to compare accuracies on; may be repeated.  [default: the picture's own]",
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Test examples a task.",
)
@json_option
def command(
    bundle: Path,
    art: str | None,
    model: str | None,
    prompts: int,
    tasks: tuple[str, ...],
    count: int,
    as_json: bool,
) -> None:
    """Compare BUNDLE with Hugging Face's own forward and generate, stage by stage.

    Ends with exit code 1 when a check fails, and names it.
    """
    from art_export.verify import VerifyOptions, verify
    from engines.bundle import BundleFolder

    folder = BundleFolder.open(bundle)
    name = folder.active() if art is None else None if art == NO_ART else art
    chosen = tasks or own_task(folder, name)
    samples = tuple(task_sample(task, count) for task in chosen)
    with StageDisplay(as_json=as_json) as progress:
        progress("load", 0, 1)
        report = verify(VerifyOptions(bundle, name, model, prompts, samples), progress)
    if as_json:
        print_json(report_facts(report))
    else:
        click.echo(describe(report))
    if not report.passed:
        click.echo(f"art-export: {verdict(report)}", err=True)
        raise click.exceptions.Exit(1)


def own_task(folder: BundleFolder, art: str | None) -> tuple[str, ...]:
    """The shipped task that the picture was trained for, if there is one."""
    from engines.errors import BundleError
    from training.tasks import TASKS

    if art is None:
        return ()
    try:
        provenance = folder.read_art(art).picture.provenance
    except BundleError:
        # A stale or edited picture is for `verify` to name, as one of its checks.
        return ()
    return (provenance.task,) if provenance is not None and provenance.task in TASKS else ()


def task_sample(task: str, count: int) -> TaskSample:
    """Test examples of a shipped task or a JSONL file, as `verify` takes them.

    Raises:
        OptionError, DataError: there is no such task, or its file has no test examples.
    """
    from art_export.cli.eval import held_out
    from art_export.verify import TaskSample
    from training.data import find_source

    source = find_source(task)
    examples = held_out(source, count, hint=False)
    return TaskSample(
        name=source.name,
        prompts=tuple(example.prompt for example in examples),
        references=tuple(example.answer for example in examples),
        is_correct=source.is_correct,
        max_new_tokens=source.max_new_tokens,
    )


def report_facts(report: VerifyReport) -> dict[str, object]:
    """The report as JSON has it, with its verdict."""
    return {
        "passed": report.passed,
        "bundle": report.bundle,
        "art": report.art,
        "base_model": report.base_model,
        "checks": [jsonable(check) for check in report.checks],
    }


def describe(report: VerifyReport) -> str:
    """The table of all checks and, below it, the verdict."""
    rows = [_row(check) for check in report.checks]
    title = f"{report.bundle}, picture {report.art or 'none'}, against {report.base_model}"
    return f"{title}\n\n{table(HEADER, rows)}\n\n{verdict(report)}"


def verdict(report: VerifyReport) -> str:
    """One line: how many checks held, and which did not."""
    failed = [check.name for check in report.checks if not check.passed]
    if not failed:
        return f"verified: all {len(report.checks)} checks passed"
    return f"verification failed: {', '.join(failed)}"


def _row(check: Check) -> tuple[str, ...]:
    numbers = (check.max_absolute, check.max_relative, check.tolerance)
    shown = ["" if number is None else f"{number:.1e}" for number in numbers]
    return (check.name, "ok" if check.passed else "FAILED", *shown, check.detail)
