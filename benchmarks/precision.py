"""What a precision costs: parity, accuracy under pictures trained in fp32, bytes and speed.

    python benchmarks/precision.py -o runs/precision --art tools=docs/art-tools.png

Builds the shipped model once for every engine and precision, swaps in the pictures, and lets
`verify` compare with PyTorch's fp32. Ends with one JSON line, and writes it to OUT/result.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from art_export.build import BuildOptions, build
from art_export.bundle import Bundle
from art_export.cli.output import jsonable
from art_export.cli.verify import task_sample
from art_export.compilers import find_compiler
from art_export.verify import VerifyOptions, verify
from engines.environment import environment
from engines.files import write_json
from engines.registry import engine_class, installed


def _targets(engines: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(engine, precision) of everything that can be built and run here."""
    for engine in engines:
        if engine in installed() and engine_class(engine).unavailable() is None:
            for precision in find_compiler(engine, "fp32").PRECISIONS:
                yield engine, precision


def _measure(
    model: str, bundle: Path, target: tuple[str, str], arts: dict[str, Path], count: int
) -> dict[str, Any]:
    """Build, swap in every picture and verify it on its task."""
    engine, precision = target
    built = build(BuildOptions(model, bundle, engine=engine, precision=precision))
    with Bundle.load(bundle) as loaded:
        for task, picture in arts.items():
            loaded.swap(picture, task)
    reports = {}
    for task in arts:
        sample = task_sample(task, count)
        report = verify(VerifyOptions(bundle, task, model, prompts=50, tasks=(sample,)))
        reports[task] = {
            "passed": report.passed,
            "checks": [jsonable(check) for check in report.checks],
            "figures": report.figures and asdict(report.figures),
        }
    return {
        "engine": engine,
        "precision": precision,
        "build_seconds": built.seconds["total"],
        "parity": built.parity,
        "tasks": reports,
    }


def _row(result: dict[str, Any]) -> str:
    parts = [f"{result['engine']:12} {result['precision']:5}"]
    for task, report in result["tasks"].items():
        checks = {check["name"]: check["detail"] for check in report["checks"]}
        speed, size = report["figures"]["tokens_per_second"], report["figures"]["weight_bytes"]
        parts.append(f"{task}: {checks[f'accuracy, {task}']}; {checks['top-1 agreement']}")
        parts.append(f"{speed:.0f} tokens/s, weights {size / 1e6:.1f} MB")
    return " | ".join(parts)


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@click.option("--model", default="demo", show_default=True)
@click.option(
    "--art", "arts", multiple=True, required=True, help="TASK=PICTURE.png; may be repeated."
)
@click.option("--engine", "engines", multiple=True, default=("onnxruntime", "openvino"))
@click.option("-n", "count", default=500, show_default=True, help="Test examples a task.")
def main(
    out: Path, model: str, arts: tuple[str, ...], engines: tuple[str, ...], count: int
) -> None:
    """Measure every engine and precision into OUT; what is there already is not measured again."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = {name: Path(path) for name, _, path in (art.partition("=") for art in arts)}
    rows = []
    for engine, precision in _targets(engines):
        record = out / f"{engine}-{precision}.json"
        if not record.exists():
            bundle = out / f"{engine}-{precision}"
            write_json(record, _measure(model, bundle, (engine, precision), pictures, count))
        rows.append(json.loads(record.read_text("utf-8")))
        click.echo(_row(rows[-1]))
    result = {"model": model, "n": count, "rows": rows, "environment": environment()}
    write_json(out / "result.json", result)
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
