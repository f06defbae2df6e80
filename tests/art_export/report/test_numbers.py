from __future__ import annotations

import pytest

from art_export.report.numbers import plural, quantity, seconds, share, size


@pytest.mark.parametrize(
    ("amount", "text"),
    [(2.5e-5, "25 µs"), (0.0352, "35.2 ms"), (16.21, "16.2 s"), (250.2, "4 min 10 s")],
)
def test_seconds(amount: float, text: str) -> None:
    assert seconds(amount) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (1.6e-5, "1.6e-05"), (0.01234, "0.0123"), (41.26, "41.3"), (12345.6, "12,346")],
)
def test_quantity(amount: float, text: str) -> None:
    assert quantity(amount) == text


def test_others() -> None:
    assert share(0.98) == "0.980"
    assert size(26_300_000.4) == "26.3 MB"
    assert size(-4096.0) == "-4.1 kB"
    assert plural(1, "step") == "1 step"
    assert plural(4000, "step") == "4,000 steps"
