"""The same model and picture through a compiled engine: built, swapped, verified, scored again.

python -m benchmarks.real_lm.compiled --data DATA --row art --precision fp32 --precision int8
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from art_export.build import BuildOptions, build
from art_export.bundle import Bundle
from art_export.verify import VerifyOptions, verify
from benchmarks.real_lm.command import located, run
from benchmarks.real_lm.data import FILES
from benchmarks.real_lm.place import Place
from benchmarks.real_lm.recipes import ROWS
from benchmarks.real_lm.results import Results
from benchmarks.real_lm.run import facts
from benchmarks.real_lm.scoring import score
from benchmarks.real_lm.training import Training
from engines.errors import DataError
from engines.files import write_json

PROMPTS = 8
"""Greedy answers that `verify` compares with transformers' own, of a model this slow on a CPU."""


def bundle_of(place: Place, size: int | None, precision: str) -> tuple[Path, dict[str, Any]]:
    """The model compiled for pictures of a size, unless that is done, and what the build took."""
    folder = place.runs / f"bundle-{place.model.name}-{precision}-{size or 'own'}"
    told = folder.with_name(f"{folder.name}.json")
    if not folder.exists():
        built = build(BuildOptions(str(place.model), folder, precision=precision, size=size))
        write_json(told, {"seconds": built.seconds, "bytes": built.bytes, "parity": built.parity})
    found: dict[str, Any] = json.loads(told.read_text("utf-8"))
    return folder, found


def scored(
    place: Place, picture: Path, task: str, size: int | None, precision: str
) -> dict[str, Any]:
    """Swap one picture in and score it.

    Returns:
        what the build took, the swap's seconds, the test score, and `verify`, not yet done.
    """
    folder, built = bundle_of(place, size, precision)
    found: dict[str, Any] = {"precision": precision, "build": built, "verify": None}
    with Bundle.load(folder) as bundle:
        swapped = bundle.swap(picture, picture.parent.name)
        found["engine"] = bundle.runtime.engine.name
        found["swap"] = swapped.seconds
        found["score"] = score(bundle.runtime, bundle.prefix(swapped.name), place.task(task))
    return found


def verified(place: Place, art: str, size: int | None, precision: str) -> dict[str, Any]:
    """Every check of `art-export verify` on a picture that has been swapped in."""
    began = time.perf_counter()
    folder, _ = bundle_of(place, size, precision)
    report = verify(VerifyOptions(folder, art, str(place.model), PROMPTS))
    checks = [asdict(check) for check in report.checks]
    seconds = round(time.perf_counter() - began, 1)
    return {"passed": report.passed, "seconds": seconds, "checks": checks}


@click.command()
@located
@click.option("--task", type=click.Choice(list(FILES)), default="bfcl", show_default=True)
@click.option("--row", type=click.Choice(list(ROWS)), default="art", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--precision", "precisions", multiple=True, default=("fp32", "int8"))
def main(
    model: Path,
    data: Path,
    runs: Path,
    results: Path,
    task: str,
    row: str,
    seed: int,
    precisions: Sequence[str],
) -> None:
    """Score a trained picture again on the compiled engine."""
    place = Place(model, data, runs)
    known = Results.open(results, place.assembled(), facts(place, [task]))
    picture = Training(place, task, row, known.rate(task, row), seed).adapter
    if not picture.is_file():
        raise DataError(
            got=f"{picture}, which is not there",
            expected="the picture of a finished training",
            fix=f"python -m benchmarks.real_lm.run --task {task} --row {row} --seed {seed}",
        )
    under, size = place.under(ROWS[row].tower), ROWS[row].size
    for precision in precisions:
        cell = (task, row, seed, precision)
        if not known.has("compiled", *cell):
            found = scored(under, picture, task, size, precision)
            known.put("compiled", *cell, value=found)
        found = known.get("compiled", *cell)
        if found["verify"] is None:
            found["verify"] = verified(under, picture.parent.name, size, precision)
            known.put("compiled", *cell, value=found)
        told = {"accuracy": found["score"]["accuracy"], "verified": found["verify"]["passed"]}
        click.echo(json.dumps({"compiled": "/".join(map(str, cell)), **told}))


if __name__ == "__main__":
    run(main)
