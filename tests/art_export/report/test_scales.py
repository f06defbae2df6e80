from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from art_export.report.scales import doublings, linear, logarithmic

NUMBERS = st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=6)
POSITIVE = st.lists(st.floats(0, 1e300), min_size=1, max_size=6)


@given(NUMBERS)
def test_linear_keeps_the_order_and_stays_inside(values: list[float]) -> None:
    scale, ticks = linear(values, 10, 500)
    places = [scale.place(value) for value in sorted(values)]
    assert all(math.isfinite(place) and 10 <= place <= 500 + 1e-6 for place in places)
    assert places == sorted(places)
    assert 2 <= len(ticks) <= 12


@given(POSITIVE)
def test_logarithmic_takes_zeros_too(values: list[float]) -> None:
    scale, ticks = logarithmic(values, 500, 10)
    places = [scale.place(value) for value in sorted(values)]
    assert all(10 - 1e-6 <= place <= 500 + 1e-6 for place in places)
    assert places == sorted(places, reverse=True)
    assert 2 <= len(ticks) <= 8


def test_decades_are_evenly_apart() -> None:
    scale, ticks = logarithmic([0.02, 30.0], 0, 400)
    assert ticks == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert [scale.place(tick) for tick in ticks] == pytest.approx([0, 100, 200, 300, 400])


def test_linear_ends_on_round_numbers_and_begins_at_zero() -> None:
    assert linear([3.0, 37.0], 0, 1)[1] == pytest.approx([0, 10, 20, 30, 40])
    assert linear([-1.0, 1.0], 0, 1)[1] == pytest.approx([-1, -0.5, 0, 0.5, 1])
    assert linear([0.0], 0, 1)[1][0] == 0


def test_chosen_numbers_are_the_ticks() -> None:
    scale, ticks = doublings([1, 4, 16, 64, 4], 0, 300)
    assert ticks == [1, 4, 16, 64]
    assert [scale.place(tick) for tick in ticks] == pytest.approx([0, 100, 200, 300])
    alone, ticks = doublings([8], 0, 300)
    assert ticks == [8]
    assert alone.place(8) == pytest.approx(150)
