"""Trained artworks side by side: a row for a task, from the untouched artwork to free pixels.

    python -m benchmarks.gallery runs/adapters -o docs/artworks.png

The pictures are those that `python -m benchmarks.adapters -o runs/adapters` has trained, shrunk to
`--side` pixels; between them the image is transparent.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image

from benchmarks.cells import SIZE, folder_of
from engines.errors import DataError, UserError
from engines.files import write_bytes
from engines.picture import load_picture
from training.artworks import ARTWORKS

COLUMNS = ("ART epsilon 16/255", "ART epsilon 32/255", "ART epsilon 64/255", "ART")
GAP = 8


def row(runs: Path, task: str, seed: int, ways: Sequence[str] = COLUMNS) -> list[np.ndarray]:
    """The artwork, and what training made of it in each of `ways`: uint8 (SIZE, SIZE, 3) each.

    Raises:
        DataError: one of them was not trained yet.
    """
    pictures = [ARTWORKS[task](SIZE)]
    for way in ways:
        path = runs / folder_of(way, task, seed) / "run" / "art.png"
        if not path.is_file():
            raise DataError(
                got=f"no {path}",
                expected=f"the picture of the cell {task}/{way}/{seed}",
                fix=f'python -m benchmarks.adapters -o {runs} --task {task} --way "{way}"',
            )
        pictures.append(load_picture(path, SIZE).pixels)
    return pictures


def sheet(rows: Sequence[Sequence[np.ndarray]], side: int) -> Image.Image:
    """All pictures, `side` pixels wide, on a transparent ground."""
    step = side + GAP
    whole = Image.new("RGBA", (len(rows[0]) * step - GAP, len(rows) * step - GAP))
    for down, pictures in enumerate(rows):
        for across, pixels in enumerate(pictures):
            small = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            whole.paste(small, (across * step, down * step))
    return whole


@click.command()
@click.argument("runs", type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@click.option("--side", default=160, show_default=True, help="Pixels a picture.")
@click.option("--seed", default=0, show_default=True)
@click.option("--task", "tasks", multiple=True, default=("tools", "math"), show_default=True)
@click.option("--way", "ways", multiple=True, default=COLUMNS, help="Columns; default: all.")
def main(
    runs: Path, out: Path, side: int, seed: int, tasks: tuple[str, ...], ways: tuple[str, ...]
) -> None:
    """Draw the pictures trained in RUNS."""
    try:
        rows = [row(runs, task, seed, ways) for task in tasks]
    except UserError as error:
        raise click.ClickException(str(error)) from error
    buffer = io.BytesIO()
    sheet(rows, side).save(buffer, "PNG", optimize=True)
    write_bytes(out, buffer.getvalue())
    click.echo(f"{out}, {len(buffer.getvalue()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
