"""From figures to places on an axis, and the ticks between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1, 2, 2.5, 5, 10)
_TINY = 1e-200
"""What is nearer to 0 is 0 to a chart."""


@dataclass(frozen=True)
class Scale:
    """Maps `low`..`high` to `start`..`end`, in logarithms if `log` is set; then `low` is above 0.
    What lies outside is put at the nearer end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies, in the units of `start` and `end`."""
        inside = min(max(value, self.low), self.high)
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            part = (math.log(inside) - low) / (high - low)
        else:
            part = (inside - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def linear(values: Sequence[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """A scale from 0, or from below the least of `values`, to a round number; and its ticks."""
    low, high = min(0.0, *values), max(0.0, *values)
    step = _nice((high - low if high - low > _TINY else 1.0) / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        last += 1
    ticks = [step * index for index in range(first, last + 1)]
    return Scale(ticks[0], ticks[-1], start, end), ticks


def logarithmic(values: Sequence[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """A scale of whole decades round those of `values` that are above 0; and its ticks."""
    positive = [value for value in values if value > _TINY] or [1.0]
    first = math.floor(math.log10(min(positive)))
    last = math.ceil(math.log10(max(positive)))
    if first == last:
        # A bar starts at the low end: the least must not be nothing.
        first -= 1
    stride = max(1, math.ceil((last - first) / 6))
    ticks = [10.0**power for power in range(first, last + 1, stride)]
    return Scale(10.0**first, 10.0**last, start, end, log=True), ticks


def doublings(values: Sequence[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """A logarithmic scale with the `values` themselves as ticks, all above 0: numbers that were
    chosen, such as 1, 4, 16."""
    ticks = sorted(set(values))
    low, high = ticks[0], ticks[-1]
    if low == high:
        low, high = low / 2, high * 2
    stride = math.ceil(len(ticks) / 8)
    return Scale(low, high, start, end, log=True), ticks[::stride]


def _nice(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten, from `step` up."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in _STEPS if power * factor >= step * (1 - 1e-9))
