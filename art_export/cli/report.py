"""`art-export report`."""

from __future__ import annotations

from pathlib import Path

import click

from art_export.cli.options import FilePath, example, json_option
from art_export.cli.output import facts, print_json


@click.command(
    epilog=example(
        "art-export report report.html --train run",
        "art-export verify bundle --json > verify.json",
        "art-export report report.html --train run --verify verify.json --eval eval.json "
        "--bench bench/bench.json",
    )
)
@click.argument("out", metavar="OUT.html", type=FilePath)
@click.option("--train", type=FilePath, multiple=True, help="Folder of a run; may be repeated.")
@click.option(
    "--verify", type=FilePath, multiple=True, help="What verify --json printed; may be repeated."
)
@click.option(
    "--bench", type=FilePath, multiple=True, help="A bench.json of bench; may be repeated."
)
@click.option(
    "--eval",
    "evals",
    type=FilePath,
    multiple=True,
    help="What eval --json printed; may be repeated.",
)
@click.option("--title", default="art-export report", show_default=True, help="Of the page.")
@click.option("--replace", is_flag=True, help="Replace OUT.html if there is one.")
@click.option(
    "--png", type=FilePath, help="Folder for a PNG of every chart; needs Chromium or Chrome."
)
@json_option
def command(
    out: Path,
    train: tuple[Path, ...],
    verify: tuple[Path, ...],
    bench: tuple[Path, ...],
    evals: tuple[Path, ...],
    title: str,
    replace: bool,
    png: Path | None,
    as_json: bool,
) -> None:
    """Write one self-contained HTML page from what other commands wrote.

    Nothing is measured here; what no file holds is left out. The page loads nothing from anywhere
    and runs no script.
    """
    from art_export.report.page import ReportOptions, write_report

    options = ReportOptions(out, train, verify, bench, evals, title, replace, png)
    result = write_report(options)
    if as_json:
        print_json(result)
        return
    from engines.files import size_text

    pairs: list[tuple[str, object]] = [
        ("page", f"{result.out} ({size_text(result.bytes)})"),
        ("sections", ", ".join(result.sections)),
    ]
    pairs += [("plots", f"{len(result.plots)} in {png}")] if result.plots else []
    click.echo(facts(pairs))
