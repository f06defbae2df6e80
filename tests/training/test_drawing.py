from __future__ import annotations

import numpy as np
import pytest

from training.drawing import (
    Drawing,
    Shape,
    arc,
    box,
    circle,
    gear,
    stroke,
    turned,
    union,
    without,
)


def at(shape: Shape, x: float, y: float) -> float:
    return float(shape(np.array([[x]]), np.array([[y]]))[0, 0])


@pytest.mark.parametrize(
    ("shape", "x", "y", "distance"),
    [
        (circle(0.5, 0.5, 0.2), 0.5, 0.5, -0.2),
        (circle(0.5, 0.5, 0.2), 0.9, 0.5, 0.2),
        (box(0.5, 0.5, 0.4, 0.2), 0.5, 0.5, -0.1),
        (box(0.5, 0.5, 0.4, 0.2), 0.8, 0.5, 0.1),
        (box(0.5, 0.5, 0.4, 0.4), 1.0, 1.0, np.hypot(0.3, 0.3)),
        (stroke([(0.2, 0.5), (0.8, 0.5)], 0.1), 0.5, 0.7, 0.15),
        (stroke([(0.2, 0.5), (0.8, 0.5)], 0.1), 1.0, 0.5, 0.15),
        (union(circle(0.2, 0.5, 0.1), circle(0.8, 0.5, 0.1)), 0.8, 0.5, -0.1),
        (without(circle(0.5, 0.5, 0.2), circle(0.5, 0.5, 0.1)), 0.5, 0.5, 0.1),
        (turned(box(0, 0, 0.4, 0.2), 0.5, 0.5, 90), 0.5, 0.8, 0.1),
    ],
)
def test_distances_are_negative_inside_and_exact(
    shape: Shape, x: float, y: float, distance: float
) -> None:
    assert at(shape, x, y) == pytest.approx(distance, abs=1e-9)


def test_an_arc_goes_clockwise_from_the_right() -> None:
    points = arc(0.5, 0.5, 0.1, 0, 90)
    assert points[0] == pytest.approx((0.6, 0.5))
    assert points[-1] == pytest.approx((0.5, 0.6))


def test_a_gear_has_its_teeth() -> None:
    around = np.linspace(0, 2 * np.pi, 7200, endpoint=False)
    x, y = 0.5 + 0.2 * np.cos(around), 0.5 + 0.2 * np.sin(around)
    inside = gear(0.5, 0.5, 0.2, 9, 0.0, 0.02)(x[None], y[None])[0] < 0
    assert int((inside & ~np.roll(inside, 1)).sum()) == 9


def test_a_shape_covers_its_inside_alone() -> None:
    drawing = Drawing(64, (0, 0, 0), (0, 0, 0))
    drawing.flat(circle(0.5, 0.5, 0.25), (200, 100, 50))
    pixels = drawing.pixels()
    assert tuple(pixels[32, 32]) == (200, 100, 50)
    assert not pixels[2, 2].any()
    covered = pixels[..., 0].sum() / 200 / 64**2
    assert covered == pytest.approx(np.pi * 0.25**2, rel=0.01)


def test_light_comes_from_the_upper_left_and_shadow_falls_to_the_lower_right() -> None:
    drawing = Drawing(128, (128, 128, 128), (128, 128, 128))
    drawing.solid(circle(0.5, 0.5, 0.2), (128, 128, 128), 0.05)
    tone = drawing.pixels().astype(int).sum(-1)
    edge = int(128 * (0.5 - 0.19 * np.sqrt(0.5))), int(128 * (0.5 + 0.19 * np.sqrt(0.5)))
    assert tone[edge[0], edge[0]] > tone[edge[1], edge[1]] + 60
    beyond = int(128 * (0.5 + 0.21 * np.sqrt(0.5)))
    assert tone[beyond, beyond] < 3 * 128 - 30


def test_a_glow_fades() -> None:
    drawing = Drawing(64, (0, 0, 0), (0, 0, 0))
    drawing.glow(circle(0.5, 0.5, 0.05), (255, 255, 255), 0.1, 1.0)
    row = drawing.pixels()[32, 36:, 0].astype(int)
    assert (np.diff(row) <= 0).all()
    assert row[0] > 200
    assert row[-1] < 40


def test_a_ball_is_round() -> None:
    drawing = Drawing(64, (0, 0, 0), (0, 0, 0))
    drawing.ball(0.5, 0.5, 0.5, 0.5, (200, 40, 40))
    pixels = drawing.pixels().astype(int)
    assert pixels[26, 26].sum() > pixels[32, 32].sum() > pixels[43, 43].sum() > 0
    assert not pixels[2, 2].any()
