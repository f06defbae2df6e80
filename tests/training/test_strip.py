from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.strip import FRAMES, GAP, Development


def frame(value: int) -> np.ndarray:
    return np.full((6, 6, 3), value, np.uint8)


def shown(path: Path) -> list[int]:
    strip = np.asarray(Image.open(path))
    return [int(value) for value in strip[0, :: 6 + GAP, 0]]


@pytest.mark.parametrize("count", [1, 2, 5, 8, 17, 100, 250])
def test_it_goes_from_the_first_to_the_last_evenly(tmp_path: Path, count: int) -> None:
    development = Development()
    for number in range(count):
        development.add(frame(number))
    development.write(tmp_path / "strip.png")
    found = shown(tmp_path / "strip.png")
    assert (found[0], found[-1]) == (0, count - 1)
    assert found == sorted(found)
    assert len(found) == min(FRAMES, count)
    steps = np.diff(found)
    assert steps.max(initial=0) <= 3 * max(1, count / FRAMES)


def test_it_goes_on_from_its_state(tmp_path: Path) -> None:
    whole, part, rest = Development(), Development(), Development()
    for number in range(40):
        whole.add(frame(number))
        part.add(frame(number)) if number < 23 else None
    rest.restore(part.state())
    for number in range(23, 40):
        rest.add(frame(number))
    whole.write(tmp_path / "whole.png")
    rest.write(tmp_path / "rest.png")
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "rest.png").read_bytes()


def test_nothing_is_written_of_nothing(tmp_path: Path) -> None:
    Development().write(tmp_path / "strip.png")
    assert not (tmp_path / "strip.png").exists()
