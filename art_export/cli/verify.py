"""`art-export verify`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from art_export.cli.engine_options import EngineChoice, engine_options
from art_export.cli.options import example, json_option, size_option
from art_export.cli.output import jsonable, print_json, table
from art_export.cli.progress import StageDisplay
from engines.files import size_text

if TYPE_CHECKING:
    from art_export.verify import Check, TaskSample, VerifyReport
    from art_export.verify_server import ServerReport
    from engines.bundle import BundleFolder
    from engines.contract import EngineOptions
    from engines.picture import Picture
    from engines.vllm_server import ServerOptions

NO_ART = "none"
HEADER = ("check", "", "max abs", "max rel", "allowed", "")


@click.command(
    epilog=example(
        "art-export verify bundle",
        "art-export verify bundle --art tools --model demo --prompts 20",
        "art-export verify demo --engine vllm --url http://localhost:8000 --art art.png",
    )
)
@click.argument("target", metavar="BUNDLE|MODEL")
@click.option("--art", help="Stored picture, or none; a PNG file too with vllm.  [default: in use]")
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
@engine_options()
@click.option(
    "--dtype",
    help="fp32, fp16 or bf16: what the server computes in.  [default: the model's files']",
)
@size_option
@json_option
def command(
    target: str,
    art: str | None,
    model: str | None,
    prompts: int,
    tasks: tuple[str, ...],
    count: int,
    dtype: str | None,
    size: int | None,
    as_json: bool,
    choice: EngineChoice,
) -> None:
    """Compare a bundle with Hugging Face's own forward and generate, stage by stage; or, with
    --engine vllm, a server's answers with generate in the same dtype.

    Ends with exit code 1 when a check fails, and names it. --dtype counts for vllm alone, --size
    for a MODEL.
    """
    server = choice.server(target)
    report: VerifyReport | ServerReport
    with StageDisplay(as_json=as_json) as progress:
        progress("load", 0, 1)
        if server is None:
            where = (Path(target), choice.own)
            report = _verify_bundle(where, art, model, prompts, (tasks, count), progress)
        else:
            what = (target, art, size, model, dtype)
            report = _verify_server(server, what, prompts, (tasks, count), progress)
    if as_json:
        print_json(report_facts(report))
    else:
        click.echo(describe(report))
    if not report.passed:
        click.echo(f"art-export: {verdict(report)}", err=True)
        raise click.exceptions.Exit(1)


def _verify_bundle(
    where: tuple[Path, EngineOptions],
    art: str | None,
    model: str | None,
    prompts: int,
    asked: tuple[tuple[str, ...], int],
    progress: StageDisplay,
) -> VerifyReport:
    from art_export.verify import VerifyOptions, verify
    from engines.bundle import BundleFolder

    path, engine = where
    folder = BundleFolder.open(path)
    name = folder.active() if art is None else None if art == NO_ART else art
    tasks, count = asked
    samples = tuple(task_sample(task, count) for task in tasks or own_task(folder, name))
    return verify(VerifyOptions(path, name, model, prompts, samples, engine), progress)


def _verify_server(
    server: ServerOptions,
    what: tuple[str, str | None, int | None, str | None, str | None],
    prompts: int,
    asked: tuple[tuple[str, ...], int],
    progress: StageDisplay,
) -> ServerReport:
    from art_export.subject import find_base
    from art_export.verify_server import ServerVerifyOptions, verify_server

    target, art, size, model, dtype = what
    base = find_base(target, art, size)
    if model is not None:
        base = replace(base, model=model)
    own = () if base.picture is None else task_of(base.picture.picture)
    tasks, count = asked
    samples = tuple(task_sample(task, count) for task in tasks or own)
    return verify_server(ServerVerifyOptions(server, base, dtype, prompts, samples), progress)


def own_task(folder: BundleFolder, art: str | None) -> tuple[str, ...]:
    """The shipped task that the picture was trained for, if there is one."""
    from engines.errors import BundleError

    if art is None:
        return ()
    try:
        return task_of(folder.read_art(art).picture)
    except BundleError:
        # A stale or edited picture is for `verify` to name, as one of its checks.
        return ()


def task_of(picture: Picture) -> tuple[str, ...]:
    """The shipped task that the picture was trained for, if there is one."""
    from training.tasks import TASKS

    provenance = picture.provenance
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


def report_facts(report: VerifyReport | ServerReport) -> dict[str, object]:
    """The report as JSON has it, with its verdict."""
    facts = jsonable(report)
    return {"passed": report.passed, **facts} if isinstance(facts, dict) else {}


def describe(report: VerifyReport | ServerReport) -> str:
    """The table of all checks and, below it, the verdict."""
    from art_export.verify_server import ServerReport

    rows = [_row(check) for check in report.checks]
    if isinstance(report, ServerReport):
        subject, reference = report.url, f"{report.base_model} in {report.dtype}"
    else:
        subject, reference = str(report.bundle), report.base_model
    title = f"{subject}, picture {report.art or 'none'}, against {reference}"
    return "\n\n".join([title, table(HEADER, rows), *_figures(report), verdict(report)])


def _figures(report: VerifyReport | ServerReport) -> list[str]:
    figures = getattr(report, "figures", None)
    if figures is None:
        return []
    weights, whole = size_text(figures.weight_bytes), size_text(figures.bytes)
    speed = f"{figures.tokens_per_second:.0f} tokens a second"
    return [f"{figures.precision}: {whole}, weights {weights}; greedy decode {speed} at batch 1"]


def verdict(report: VerifyReport | ServerReport) -> str:
    """One line: how many checks held, and which did not."""
    failed = [check.name for check in report.checks if not check.passed]
    if not failed:
        return f"verified: all {len(report.checks)} checks passed"
    return f"verification failed: {', '.join(failed)}"


def _row(check: Check) -> tuple[str, ...]:
    numbers = (check.max_absolute, check.max_relative, check.tolerance)
    shown = ["" if number is None else f"{number:.1e}" for number in numbers]
    return (check.name, "ok" if check.passed else "FAILED", *shown, check.detail)
