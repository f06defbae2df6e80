"""`art-export build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from art_export.cli.options import (
    example,
    json_option,
    model_argument,
    output_option,
    size_option,
)
from art_export.cli.output import facts, print_json, seconds, table
from art_export.cli.progress import StageDisplay

if TYPE_CHECKING:
    from art_export.build import BuildResult


@click.command(
    epilog=example(
        "art-export build demo -o bundle",
        "art-export build Qwen/Qwen3.5-0.8B -o bundle --engine onnxruntime",
    )
)
@model_argument
@output_option("Folder of the bundle")
@click.option("--engine", default="onnxruntime", show_default=True, help="What will run it.")
@click.option("--precision", default="fp32", show_default=True, help="Of weights and arithmetic.")
@size_option
@json_option
def command(model: str, out: Path, engine: str, precision: str, size: int, as_json: bool) -> None:
    """Compile the untouched MODEL once into a bundle.

    Exports vision, embedding and decoder graphs with weights stored once, checks them, compares
    them with PyTorch and publishes the bundle whole or not at all.
    """
    from art_export.build import BuildOptions, build

    with StageDisplay(as_json=as_json) as progress:
        result = build(BuildOptions(model, out, engine, precision, size), progress)
    if as_json:
        print_json(result)
    else:
        click.echo(_describe(result))


def _describe(result: BuildResult) -> str:
    from engines.files import size_text

    summary = facts(
        [
            ("bundle", result.path),
            ("base model", f"{result.base_model}, weights {result.weights_sha256[:12]} untouched"),
            ("size", f"{size_text(result.bytes)}, weights {size_text(result.weight_bytes)}"),
            ("graphs", ", ".join(f"{name} {count} nodes" for name, count in result.nodes.items())),
            ("parity", f"|logit difference| {result.parity:.2g} <= {result.tolerance:g}"),
        ]
    )
    stages = table(("stage", "seconds"), [(k, seconds(v)) for k, v in result.seconds.items()])
    return f"{summary}\n\n{stages}"
