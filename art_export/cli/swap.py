"""`art-export swap`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from art_export.cli.engine_options import EngineChoice, engine_options
from art_export.cli.options import FilePath, bundle_argument, example, json_option
from art_export.cli.output import facts, print_json, seconds, table
from art_export.cli.progress import StageDisplay

if TYPE_CHECKING:
    from art_export.swap import Change, SwapResult


@click.command(epilog=example("art-export swap bundle run/art.png --name tools"))
@bundle_argument
@click.argument("art", metavar="ART.png", type=FilePath)
@click.option("--name", help="What it is called in the bundle.  [default: the file's name]")
@engine_options(server=False)
@json_option
def command(bundle: Path, art: Path, name: str | None, choice: EngineChoice, as_json: bool) -> None:
    """Make ART.png the adapter of BUNDLE. No graph is rebuilt or changed.

    The picture is checked and encoded once, and the model's state after it is stored. The old
    picture stays in use until the last step, and remains in the bundle.
    """
    from art_export.bundle import Bundle

    with StageDisplay(as_json=as_json) as progress:
        progress("load", 0, 1)
        with Bundle.load(bundle, choice.own) as loaded:
            progress("swap", 0, 1)
            result = loaded.swap(art, name)
            progress("swap", 1, 1)
    if as_json:
        print_json(result)
    else:
        click.echo(_describe(result))
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)


def _describe(result: SwapResult) -> str:
    from engines.files import size_text

    state = f"{result.prefix_tokens} tokens, {size_text(result.prefix_bytes)}"
    summary = facts(
        [
            ("in use", f"{result.name} (before: {result.previous or 'no picture'})"),
            ("picture", result.picture_sha256[:12]),
            ("prefix state", state),
            ("graph files", f"{result.files_unchanged} unchanged (sha256, or untouched since)"),
            ("output", _moved(result.change)),
        ]
    )
    stages = table(("stage", "time"), [(k, seconds(v)) for k, v in result.seconds.items()])
    return f"{summary}\n\n{stages}"


def _moved(change: Change) -> str:
    against = change.against or "no picture"
    if change.same_picture:
        return f"equal to {against} bit for bit: it is the same picture"
    return (
        f"differs from {against}: a logit by {change.max_logit_difference:.3g}, "
        f"total variation {change.total_variation:.3g}"
    )
