from __future__ import annotations

import pytest
import torch

from training.likeness import Likeness, low_frequency, total_variation


def test_the_start_itself_costs_nothing() -> None:
    start = torch.rand(32, 32, 3) * 255
    assert float(Likeness(1.0, 1.0).penalty(start, start)) == 0.0


def test_without_weights_there_is_no_gradient() -> None:
    picture = torch.rand(16, 16, 3).requires_grad_()
    assert not Likeness().penalty(picture, torch.zeros(16, 16, 3)).requires_grad


def test_variation_is_the_mean_step() -> None:
    ramp = torch.arange(8.0)[:, None, None].expand(8, 8, 3) / 10
    assert float(total_variation(ramp)) == pytest.approx(0.1)
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    assert float(total_variation(checks[..., None].expand(8, 8, 3).float())) == pytest.approx(2.0)


def test_grain_is_dear_in_variation_and_a_tint_in_low_frequencies() -> None:
    checks = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2 - 1).float()
    grain, tint = checks[..., None].expand(16, 16, 3) * 10, torch.full((16, 16, 3), 10.0)
    start = torch.full((16, 16, 3), 128.0)
    variation, low = Likeness(variation=1.0), Likeness(low=1.0)
    assert float(variation.penalty(start + tint, start)) == pytest.approx(0.0, abs=1e-6)
    assert float(low.penalty(start + grain, start)) == pytest.approx(0.0, abs=1e-6)
    assert float(variation.penalty(start + grain, start)) > 0.1
    assert float(low.penalty(start + tint, start)) == pytest.approx((10 / 255) ** 2, rel=1e-4)


def test_low_frequencies_of_a_picture_smaller_than_a_square() -> None:
    assert float(low_frequency(torch.ones(4, 4, 3))) == pytest.approx(1.0)
