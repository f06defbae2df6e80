from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.cells import folder_of
from benchmarks.gallery import COLUMNS, GAP, main, row, sheet
from engines.errors import DataError
from engines.picture import save_picture
from training.artworks import ARTWORKS

SIZE = 32


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artworks of this size are drawn in no time."""
    monkeypatch.setattr("benchmarks.gallery.SIZE", SIZE)


def test_a_row_is_the_artwork_and_what_was_trained_from_it(tmp_path: Path) -> None:
    for level, way in enumerate(COLUMNS):
        run = tmp_path / folder_of(way, "tools", 0) / "run"
        run.mkdir(parents=True)
        save_picture(run / "art.png", np.full((SIZE, SIZE, 3), level, np.uint8), None)
    pictures = row(tmp_path, "tools", 0)
    assert np.array_equal(pictures[0], ARTWORKS["tools"](SIZE))
    assert [int(picture.max()) for picture in pictures[1:]] == [0, 1, 2, 3]


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ART epsilon 16/255"):
        row(tmp_path, "math", 0)
    done = CliRunner().invoke(main, [str(tmp_path), "-o", str(tmp_path / "sheet.png")])
    assert done.exit_code == 1
    assert done.output.startswith("Error: got:")
    assert not (tmp_path / "sheet.png").exists()


def test_pictures_stand_in_rows_with_nothing_between() -> None:
    colours = [np.full((SIZE, SIZE, 3), level, np.uint8) for level in (10, 20, 30, 40)]
    image = sheet([colours[:2], colours[2:]], 40)
    assert image.size == (80 + GAP, 80 + GAP)
    pixels = np.asarray(image)
    assert pixels[20, 20].tolist() == [10, 10, 10, 255]
    assert pixels[70, 70].tolist() == [40, 40, 40, 255]
    assert pixels[20, 40 + GAP // 2, 3] == 0
    assert isinstance(image, Image.Image)
