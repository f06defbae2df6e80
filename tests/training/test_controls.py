from __future__ import annotations

import numpy as np

from training.controls import control_pictures


def test_controls_are_three_different_pictures_of_the_right_form() -> None:
    pictures = control_pictures(64, 0)
    assert set(pictures) == {"grey", "noise", "artwork"}
    for pixels in pictures.values():
        assert pixels.dtype == np.uint8
        assert pixels.shape == (64, 64, 3)
    assert pictures["grey"].std() == 0
    assert pictures["noise"].std() > 60
    assert len(np.unique(pictures["artwork"].reshape(-1, 3), axis=0)) > 100


def test_noise_is_seeded() -> None:
    again, other = control_pictures(64, 0), control_pictures(64, 1)
    assert np.array_equal(control_pictures(64, 0)["noise"], again["noise"])
    assert not np.array_equal(again["noise"], other["noise"])
