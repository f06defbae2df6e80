"""Rows of a batch, apart and together; and a batch that rows enter and leave between steps.

A row by itself has no padding. In a batch, shorter rows are lengthened by masked keys and values at
the left end, where recurrent layers have nothing to forget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.contract import Engine, Stepper

SEGMENT = 128
"""Most steps that a batch makes room for at a time: buffers for keys and values have room for every
step to come, and few answers are as long as they may be."""


@dataclass(frozen=True, eq=False)
class Row:
    """One sequence by itself.

    arrays: its state, batch of 1, in the order of the engine's `state`. length: tokens in it.
    position: mrope position of the next token.
    """

    arrays: tuple[NDArray[Any], ...]
    length: int
    position: int


@dataclass(frozen=True, eq=False)
class Joined:
    """Rows in one batch: arrays, mask (batch, longest), positions (batch,) of the next tokens."""

    arrays: tuple[NDArray[Any], ...]
    mask: NDArray[np.int64]
    positions: NDArray[np.int64]


def join(engine: Engine, rows: Sequence[Row]) -> Joined:
    """Rows, at least one, as a batch in their order."""
    lengths = np.array([row.length for row in rows])
    longest = int(lengths.max())
    arrays = []
    for index, spec in enumerate(engine.state):
        parts = [row.arrays[index] for row in rows]
        if spec.length_axis is not None:
            parts = [_lengthened(part, spec.length_axis, longest) for part in parts]
        arrays.append(np.concatenate(parts))
    mask = (np.arange(longest) >= longest - lengths[:, None]).astype(np.int64)
    return Joined(tuple(arrays), mask, np.array([row.position for row in rows], np.int64))


def part(engine: Engine, arrays: Sequence[NDArray[Any]], place: int, length: int) -> Any:
    """The arrays of the row at `place` of a batch, which has `length` tokens: its padding is cut
    off. They are views."""
    found = []
    for spec, array in zip(engine.state, arrays, strict=True):
        row, axis = array[place : place + 1], spec.length_axis
        if axis is not None:
            row = row[(slice(None),) * axis + (slice(row.shape[axis] - length, None),)]
        found.append(row)
    return tuple(found)


class LiveBatch:
    """Rows that are decoded together; who is among them may change between two steps.

    A change copies the states of all rows, so it costs time in proportion to their bytes.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows: list[Row] = []
        self._stepper: Stepper | None = None
        self._steps = self.room = 0

    def __len__(self) -> int:
        return len(self._rows)

    def change(self, keep: Sequence[int], join_in: Sequence[Row], room: int) -> None:
        """Keep the rows at these places, append others, and make room for `room` steps, SEGMENT
        at most; `self.room` says how many are left."""
        self._rows = [*self._taken_out(keep), *join_in]
        self._stepper, self._steps, self.room = None, 0, 0
        if not self._rows:
            return
        self.room = min(room, SEGMENT)
        joined = join(self._engine, self._rows)
        state = self._engine.load_state(joined.arrays)
        self._stepper = self._engine.stepper(state, joined.mask, joined.positions, self.room)
        # The stepper has a copy; a row's own state is read out of it again.
        self._rows = [replace(row, arrays=()) for row in self._rows]

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append tokens (rows,) -> logits (rows, vocabulary), valid until the next step.

        Raises:
            ValueError: there are no rows, or no room is left.
        """
        if self._stepper is None or not self.room:
            raise ValueError("a batch without rows or room makes no step")
        self._steps, self.room = self._steps + 1, self.room - 1
        return self._stepper.step(tokens)

    def _taken_out(self, keep: Sequence[int]) -> list[Row]:
        if self._stepper is None or not keep:
            return []
        arrays, count = self._stepper.dump(), self._steps
        return [
            Row(
                part(self._engine, arrays, place, self._rows[place].length + count),
                self._rows[place].length + count,
                self._rows[place].position + count,
            )
            for place in keep
        ]


def _lengthened(array: NDArray[Any], axis: int, length: int) -> NDArray[Any]:
    """Zeros at the left end of `axis`, up to `length`."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (length - array.shape[axis], 0)
    return np.pad(array, widths)
