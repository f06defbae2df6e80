from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from engines.errors import OptionError
from training.controls import artwork
from training.distortions import DISTORTIONS, check_distortions, distorted, jpeg_pixels
from training.picture import to_pixels

SIZE = 64


def art() -> torch.Tensor:
    return torch.tensor(artwork(SIZE)).float().requires_grad_()


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_distorted_picture_is_one_of_8_bits_that_a_gradient_flows_through(name: str) -> None:
    picture = art()
    seen = DISTORTIONS[name](picture, random.Random(3))
    assert seen.shape == picture.shape
    assert torch.equal(seen, seen.round().clamp(0, 255))
    assert 0 < (seen - picture).abs().mean() < 30
    seen.sum().backward()
    assert picture.grad is not None
    # What is drawn from a pixel's neighbourhood adds up to about one picture.
    assert picture.grad.sum() == pytest.approx(seen.numel(), rel=0.01)


def test_jpeg_is_a_real_one() -> None:
    picture, rng = art(), random.Random(3)
    seen = DISTORTIONS["jpeg"](picture, rng)
    quality = random.Random(3).randint(70, 95)
    assert np.array_equal(to_pixels(seen), jpeg_pixels(artwork(SIZE), quality))


def test_what_is_drawn_depends_on_seed_and_step_alone() -> None:
    names = tuple(DISTORTIONS)
    steps = [distorted(art(), names, 0, step).detach() for step in range(40)]
    again = [distorted(art(), names, 0, step).detach() for step in range(40)]
    assert all(torch.equal(a, b) for a, b in zip(steps, again, strict=True))
    unchanged = [torch.equal(seen, art().detach()) for seen in steps]
    assert 0 < sum(unchanged) < 40
    assert torch.equal(distorted(art(), (), 0, 5), art())


def test_an_unknown_distortion_is_answered_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'jpeg'"):
        check_distortions(["crop", "jpg"])
