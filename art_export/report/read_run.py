"""Reading a run's folder, which may come from a stranger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from art_export.report.fields import Fields, malformed, parse_object, read_object, read_text
from art_export.report.sources import Run, Validation
from engines.errors import DataError, PictureError

if TYPE_CHECKING:
    from engines.picture import Picture, Pixels

LARGEST_STRIP = 64
"""Frames; training writes eight."""


def read_run(folder: Path) -> Run:
    """Read a run's folder: run.json, metrics.jsonl, art.png and strip.png.

    Raises:
        DataError: the run is unfinished, or a file of it is malformed.
        PictureError: art.png is no picture.
    """
    record = read_object(_record(folder))
    options, result, model = (record.object(name) for name in ("options", "result", "model"))
    where = folder / "metrics.jsonl"
    steps, validations = _metrics(read_text(where), str(where)) if where.is_file() else ((), ())
    picture, strip = _pictures(folder)
    size = 0 if picture is None else picture.size
    hashes = {
        "weights sha256": model.text_or("weights_sha256", None),
        "data sha256": result.text_or("data_hash", None),
        "picture sha256": None if picture is None else picture.sha256,
        "revision": model.text_or("revision", None),
    }
    return Run(
        name=folder.resolve().name,
        kind=record.text("kind"),
        model=options.text("model"),
        task=options.text("task"),
        facts={name: value for name, value in hashes.items() if value is not None},
        options=options.plain(),
        versions=record.object("versions").plain(),
        score=result.number("score"),
        step=result.integer("step"),
        seconds=result.number_or_none("seconds"),
        controls=result.object("controls").numbers(),
        notes=result.texts("notes"),
        steps=steps,
        validations=validations,
        picture=picture,
        start=None if strip is None else strip[:, :size],
        strip=strip,
    )


def _record(folder: Path) -> Path:
    path = folder / "run.json"
    if path.is_file():
        return path
    unfinished = (folder / "checkpoint.pt").is_file()
    raise DataError(
        got=f"{folder}, which has no run.json" + (": its run is unfinished" * unfinished),
        expected="the folder of a finished run, as art-export train -o writes it",
        fix="finish the run with --resume, or name another folder",
    )


def _metrics(
    text: str, where: str
) -> tuple[tuple[tuple[int, Mapping[str, float]], ...], tuple[Validation, ...]]:
    steps: list[tuple[int, Mapping[str, float]]] = []
    validations = []
    for line in _lines(text, where):
        step = line.integer("step")
        if "validation" in line.values:
            found = line.object("validation")
            loss, exact = found.number_or_none("loss"), found.number("exact")
            validations.append(Validation(step, exact, loss, line.flag("best")))
        else:
            numbers = {name: value for name, value in line.numbers().items() if name != "step"}
            steps.append((step, numbers))
    return tuple(steps), tuple(validations)


def _lines(text: str, where: str) -> Iterator[Fields]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield parse_object(line, f"{where}: line {number}")


def _pictures(folder: Path) -> tuple[Picture | None, Pixels | None]:
    from engines.picture import load_picture

    art, strip = folder / "art.png", folder / "strip.png"
    if not art.is_file():
        return None, None
    picture = load_picture(art)
    return picture, _strip(strip, picture.size) if strip.is_file() else None


def _strip(path: Path, size: int) -> Pixels:
    """The pixels of a strip, after its form was checked: a small file may hold a huge image."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            width, height = image.size
            if height != size or not size <= width <= LARGEST_STRIP * (size + 4):
                raise malformed(str(path), f"{width}x{height} pixels beside a picture of {size}")
            return np.asarray(image.convert("RGB"), np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(
            got=f"{path}, which cannot be read: {error}",
            expected="the strip.png that training wrote",
            fix="remove it: the report does without",
        ) from error
