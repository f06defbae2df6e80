from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from art_export.report.blocks import Images
from art_export.report.pictures import difference, section
from art_export.report.read_run import read_run
from art_export.report.sources import Sources
from engines.picture import decode_picture, load_picture
from tests.art_export.report.samples import pixels, write_run


def test_the_difference_is_grey_where_nothing_changed() -> None:
    before = np.full((2, 2, 3), 100, np.uint8)
    after = before.copy()
    after[0, 0], after[1, 1] = 140, 80
    shown = difference(before, after)
    assert (shown[0, 1] == 128).all()
    assert (shown[0, 0] == 255).all()
    assert (shown[1, 1] == 64).all()
    assert (difference(before, before) == 128).all()


def test_the_whole_range_does_not_overflow() -> None:
    black, white = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    assert (difference(black, white) == 255).all()
    assert (difference(white, black) == 1).all()


def test_the_adapter_can_be_saved_from_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    made = section(Sources(runs=(read_run(run),)))
    assert made is not None
    images = [image for block in made.blocks if isinstance(block, Images) for image in block.images]
    assert len(images) == 4
    assert all(image.alt and image.uri.startswith("data:image/") for image in images)
    kept = next(image for image in images if image.caption.startswith("After"))
    data = base64.b64decode(kept.uri.partition("base64,")[2])
    again, original = decode_picture(data, "page"), load_picture(run / "art.png")
    assert again.sha256 == original.sha256
    assert again.provenance == original.provenance


def test_a_run_without_a_strip_shows_its_picture_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "strip.png").unlink()
    made = section(Sources(runs=(read_run(run),)))
    assert made is not None
    shown = [block for block in made.blocks if isinstance(block, Images)]
    assert [len(block.images) for block in shown] == [1]
    assert (load_picture(run / "art.png").pixels == pixels(1)).all()


def test_an_adapter_that_is_no_picture_has_no_section(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", pictures=False)
    assert section(Sources(runs=(read_run(run),))) is None
