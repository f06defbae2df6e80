from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.picture import (
    BallPicture,
    FreePicture,
    grey_start,
    make_picture,
    round_through,
    to_pixels,
)

PIXELS = arrays(np.uint8, (4, 4, 3))


def step(picture: FreePicture | BallPicture, weight: torch.Tensor, rate: float = 1.0) -> None:
    (picture() * weight).sum().backward()
    picture.update(rate)


@given(PIXELS)
def test_a_free_picture_starts_exactly_at_its_start(start: np.ndarray) -> None:
    values = FreePicture(start, 0.3)()
    assert values.dtype == torch.float32
    assert np.array_equal(to_pixels(values), start)


@given(PIXELS, st.integers(0, 2**31))
@settings(max_examples=25)
def test_forward_values_are_whole_numbers_in_range(start: np.ndarray, seed: int) -> None:
    weight = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(seed))
    for picture in (FreePicture(start, 3.0), BallPicture(start, 7, 2.3)):
        for _ in range(5):
            step(picture, weight)
        values = picture().detach()
        assert torch.equal(values, values.round())
        assert values.min() >= 0
        assert values.max() <= 255
        assert np.array_equal(to_pixels(picture()).astype(np.float32), values.numpy())


@given(PIXELS, st.integers(1, 255), st.floats(0.01, 50), st.integers(0, 2**31))
@settings(max_examples=50)
def test_a_ball_is_never_left(start: np.ndarray, radius: int, lr: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    picture = BallPicture(start, radius, lr)
    for _ in range(10):
        step(picture, torch.randn(4, 4, 3, generator=generator))
    moved = np.abs(to_pixels(picture()).astype(int) - start.astype(int))
    assert moved.max() <= radius


def test_sign_steps_reach_the_edge_of_the_ball_and_stay_there() -> None:
    start = np.full((2, 2, 3), 100, np.uint8)
    picture = make_picture(start, lr=2 / 255, radius=32)
    for _ in range(17):
        step(picture, torch.ones(2, 2, 3))
    assert (to_pixels(picture()) == 68).all()


def test_rounding_passes_the_gradient_through() -> None:
    values = torch.tensor([0.2, 99.6, 254.5], requires_grad=True)
    (round_through(values) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 2.0, 3.0]


def test_descent_lowers_the_loss_in_both_parametrisations() -> None:
    target = torch.full((2, 2, 3), 30.0)
    start = np.full((2, 2, 3), 128, np.uint8)
    for picture in (FreePicture(start, 0.3), BallPicture(start, 120, 4.0)):
        before = float((picture().detach() - target).square().mean())
        for _ in range(60):
            (picture() - target).square().mean().backward()
            picture.update(1.0)
        assert float((picture().detach() - target).square().mean()) < before / 50


@pytest.mark.parametrize("radius", [None, 16])
def test_a_restored_picture_goes_on_bit_for_bit(radius: int | None) -> None:
    start = grey_start(4, 0)
    weight = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(1))
    first = make_picture(start, 0.1, radius)
    for _ in range(3):
        step(first, weight)
    second = make_picture(start, 0.1, radius)
    second.restore(first.state())
    for _ in range(3):
        step(first, -weight, 0.5)
        step(second, -weight, 0.5)
    assert torch.equal(first(), second())
    saved, again = first.state(), second.state()
    key = "logits" if radius is None else "values"
    assert torch.equal(saved[key], again[key])


def test_the_default_start_is_grey_noisy_and_seeded() -> None:
    start = grey_start(64, 3)
    assert abs(float(start.mean()) - 127.5) < 1
    assert 3 < start.std() < 9
    assert np.array_equal(start, grey_start(64, 3))
    assert not np.array_equal(start, grey_start(64, 4))


def test_a_zero_gradient_does_not_move_a_ball() -> None:
    start = grey_start(4, 0)
    picture = BallPicture(start, 8, 1.0)
    step(picture, torch.zeros(4, 4, 3))
    assert np.array_equal(to_pixels(picture()), start)
