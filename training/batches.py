"""Examples as token ids, and batches that depend on nothing but the seed and the step."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
IGNORE = -100
"""Target of a position that predicts no answer token."""


@dataclass(frozen=True)
class Row:
    """One example as the model reads it: `ids[start:]` is the answer with its end-of-turn."""

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right.

    input_ids: int64 (batch, length). targets: int64 (batch, keep), the token that follows each of
    the last `keep` positions, or IGNORE. Earlier positions predict no answer token in any row, so
    their logits are never needed.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    keep: int

    @property
    def wanted(self) -> torch.Tensor:
        """bool (batch, keep): positions that predict an answer token."""
        return self.targets != IGNORE

    @property
    def places(self) -> torch.Tensor:
        """Where these are among all positions, int64 (tokens,) in 0..batch * length, in order."""
        row, column = self.wanted.nonzero(as_tuple=True)
        length = self.input_ids.shape[1]
        return row * length + (length - self.keep) + column


def collate(rows: Sequence[Row], device: torch.device | str = "cpu") -> Batch:
    """Pad `rows` to the longest. The last token of a row is only ever a target, not an input."""
    length = max(len(row.ids) for row in rows) - 1
    first = min(row.start for row in rows) - 1
    # One tensor of plain lists: many small ones would take several times as long.
    ids = [[*row.ids[:-1], *[0] * (length + 1 - len(row.ids))] for row in rows]
    answers = [
        [
            *[IGNORE] * (row.start - 1),
            *row.ids[row.start :],
            *[IGNORE] * (length + 1 - len(row.ids)),
        ]
        for row in rows
    ]
    input_ids, targets = torch.tensor(ids), torch.tensor(answers)
    return Batch(input_ids.to(device), targets[:, first:].to(device), length - first)


def batch_indices(count: int, size: int, seed: int, step: int) -> list[int]:
    """Which of `count` examples the batch of `step` (from 0) holds: epochs without replacement."""
    places = range(step * size, (step + 1) * size)
    return [epoch_order(count, seed, place // count)[place % count] for place in places]


class Lazy(Generic[T]):
    """Values of examples, computed when they are first asked for and kept.

    They are computed in fixed groups, the examples of the first epoch in turn: what a value is, to
    the last bit, does not depend on which others were asked for before, so that a resumed run
    computes the same.

    Args:
        make: indices of one group -> their values.
    """

    def __init__(
        self, count: int, seed: int, size: int, make: Callable[[Sequence[int]], Sequence[T]]
    ) -> None:
        self._order, self._size, self._make = epoch_order(count, seed, 0), size, make
        self._place = {index: place for place, index in enumerate(self._order)}
        self._known: dict[int, T] = {}

    def __getitem__(self, index: int) -> T:
        if index not in self._known:
            first = self._place[index] // self._size * self._size
            group = self._order[first : first + self._size]
            self._known.update(zip(group, self._make(group), strict=True))
        return self._known[index]

    def __len__(self) -> int:
        return len(self._order)


@functools.lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The examples in the order of an epoch."""
    order = list(range(count))
    random.Random(f"batches/{seed}/{epoch}").shuffle(order)
    return tuple(order)
