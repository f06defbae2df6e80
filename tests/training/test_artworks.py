from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from engines.errors import OptionError
from engines.picture import load_picture
from training.artworks import ARTWORKS, SUM, artwork_of
from training.options import TrainOptions
from training.run import train
from training.tasks import TASKS


@cache
def drawn(name: str, size: int) -> np.ndarray:
    return ARTWORKS[name](size)


def test_every_shipped_task_has_its_artwork() -> None:
    assert set(ARTWORKS) == set(TASKS)


@pytest.mark.parametrize("name", ARTWORKS)
@pytest.mark.parametrize("size", [32, 112, 256])
def test_artworks_are_pictures_of_any_size(name: str, size: int) -> None:
    pixels = drawn(name, size)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (size, size, 3)


@pytest.mark.parametrize("name", ARTWORKS)
def test_an_artwork_is_always_the_same(name: str) -> None:
    assert np.array_equal(ARTWORKS[name](32), ARTWORKS[name](32))


@pytest.mark.parametrize("name", ARTWORKS)
def test_artworks_have_colour_contrast_and_room_to_move(name: str) -> None:
    pixels = drawn(name, 256).astype(int)
    assert pixels.std() > 40
    assert np.ptp(pixels, axis=-1).mean() > 30
    # A ball round a pixel at the end of the range is cut in half.
    assert ((pixels < 8) | (pixels > 247)).mean() < 0.1


def test_artworks_differ_and_sizes_show_the_same() -> None:
    tools, math = (drawn(name, 256).astype(float) for name in ("tools", "math"))
    assert abs(tools - math).mean() > 40
    half = tools.reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert abs(half - drawn("tools", 128)).mean() < 3


def test_the_sum_on_the_abacus_is_right() -> None:
    assert SUM[0] + SUM[1] == SUM[2]


def test_a_name_stands_for_its_artwork_and_a_path_for_itself() -> None:
    found = artwork_of("artwork:math", 64)
    assert found is not None
    assert np.array_equal(found, ARTWORKS["math"](64))
    assert artwork_of("math.png", 64) is None
    with pytest.raises(OptionError, match="did you mean 'tools'"):
        artwork_of("artwork:tool", 64)


def test_training_starts_from_an_artwork_and_stays_near(tmp_path: Path) -> None:
    result = train(
        TrainOptions(
            "demo",
            "tools",
            tmp_path / "run",
            steps=1,
            size=256,
            init=Path("artwork:tools"),
            epsilon="8/255",
            lr=4 / 255,
            batch_size=2,
            examples=2,
            validation_examples=2,
            controls=False,
        )
    )
    moved = load_picture(result.picture).pixels.astype(int) - drawn("tools", 256)
    assert abs(moved).max() <= 8
