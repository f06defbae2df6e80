"""`art-export demo`."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from art_export.cli.options import FilePath, example, json_option
from art_export.cli.output import percent, print_json, seconds, table
from art_export.cli.progress import StageDisplay

if TYPE_CHECKING:
    from art_export.cli.demo_run import DemoReport, Way

HEADER = ("adapter", "to train", "to put in use", "to ship", "held-out accuracy", "95 % interval")
LORA_NOTE = """\
LoRA here is the kind that a compiled engine without LoRA inputs needs: merged into the weights,
exported and built again. Engines that reserve LoRA inputs at build time (ONNX Runtime adapters,
vLLM, OpenVINO) skip the rebuild and pay at every token instead; they are not measured here."""


@click.command(epilog=example("art-export demo", "art-export demo -o my-demo"))
@click.option(
    "-o", "--out", type=FilePath, help="Folder to write.  [default: demo-out, or demo-out-2, ...]"
)
@json_option
def command(out: Path | None, as_json: bool) -> None:
    """Train a picture for the shipped model, build once, swap, verify, compare with LoRA.

    Takes about five minutes on two cores, and needs no network.
    """
    from art_export.cli.demo_run import DemoOptions, report_of, run_demo

    folder = first_free("demo-out") if out is None else out
    with StageDisplay(as_json=as_json) as progress:
        report = run_demo(DemoOptions(folder), progress)
    if as_json:
        print_json(report_of(report))
    else:
        click.echo(describe(report))
    if not (report.verified.passed and report.aba_equal):
        click.echo("art-export: the demo ran to its end, but a check failed", err=True)
        raise click.exceptions.Exit(1)


def first_free(name: str) -> Path:
    """`name`, or `name-2`, `name-3`, ...: the first that does not exist."""
    candidates = (Path(name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(path for path in candidates if not path.exists())


def describe(report: DemoReport) -> str:
    """What was measured, for people."""
    from art_export.cli.verify import describe as describe_checks

    first = report.ways[0].score
    back = "bit for bit" if report.aba_equal else "NO: other logits than the first time"
    return "\n".join(
        [
            f"Task {report.task} on {report.model}, n = {first.n} held-out examples, greedy, "
            "through the compiled engine",
            "",
            table(HEADER, [_row(way) for way in report.ways]),
            "",
            f"The engine was built once, in {seconds(report.build_seconds['total'])}; "
            f"{len(report.swaps)} swaps since then rebuilt nothing "
            f"({report.swaps[-1].files_unchanged} graph files unchanged).",
            f"Swapping trained, noise, grey and trained again gave the first logits: {back}.",
            "",
            LORA_NOTE,
            "",
            describe_checks(report.verified),
            "",
            f"In all {seconds(report.seconds)}. Pictures, bundle and report.json: {report.out}",
        ]
    )


def _row(way: Way) -> tuple[str, ...]:
    from engines.files import size_text

    score = way.score
    return (
        way.name,
        seconds(way.train["train"]) if way.train else "-",
        seconds(way.deploy["total"]) if way.deploy else "-",
        size_text(way.ships) if way.ships else "-",
        percent(score.accuracy),
        f"{percent(score.low)} to {percent(score.high)}",
    )
