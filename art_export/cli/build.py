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
@click.option(
    "--precision", default="fp32", show_default=True, help="fp32, fp16, bf16, int8 or int4 weights."
)
@size_option
@click.option("--max-length", type=click.IntRange(min=1), help="Most tokens of a sequence.")
@click.option(
    "--max-batch", type=click.IntRange(min=1), default=8, show_default=True,
    help="Most rows at a time, for engines that must know.",
)  # fmt: skip
@click.option(
    "--compute-capability", default="", help="GPUs to build for ahead of time, as sm89,sm120."
)
@click.option("--provider", help="ONNX Runtime: cpu, cuda or tensorrt.  [default: cpu]")
@click.option("--refittable", is_flag=True, help="TensorRT: let weights be replaced later.")
@click.option("--reserve-lora", is_flag=True, help="ONNX Runtime: optional inputs for LoRA.")
@json_option
def command(
    model: str,
    out: Path,
    engine: str,
    precision: str,
    size: int | None,
    max_length: int | None,
    max_batch: int,
    compute_capability: str,
    refittable: bool,
    reserve_lora: bool,
    provider: str | None,
    as_json: bool,
) -> None:
    """Compile the untouched MODEL once into a bundle.

    Exports vision, embedding and decoder graphs with weights stored once, checks them, compares
    them with PyTorch and publishes the bundle whole or not at all.
    """
    from art_export.build import BuildOptions, build

    with StageDisplay(as_json=as_json) as progress:
        options = BuildOptions(
            model,
            out,
            engine,
            precision,
            size,
            max_length,
            max_batch,
            tuple(name.strip() for name in compute_capability.split(",") if name.strip()),
            refittable,
            reserve_lora,
            provider,
        )
        result = build(options, progress)
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
            ("parity", _parity(result)),
        ]
    )
    stages = table(("stage", "seconds"), [(k, seconds(v)) for k, v in result.seconds.items()])
    return f"{summary}\n\n{stages}"


def _parity(result: BuildResult) -> str:
    if result.parity is None:
        return "not measured: the engine cannot run on this machine"
    bound = "" if result.tolerance is None else f" <= {result.tolerance:g}"
    return f"|logit difference| from PyTorch's fp32 {result.parity:.2g}{bound}"
