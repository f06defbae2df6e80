"""Examples as token ids, and batches that depend on nothing but the seed and the step."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

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


def collate(rows: Sequence[Row]) -> Batch:
    """Pad `rows` to the longest. The last token of a row is only ever a target, not an input."""
    length = max(len(row.ids) for row in rows) - 1
    first = min(row.start for row in rows) - 1
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    targets = torch.full((len(rows), length), IGNORE)
    for index, row in enumerate(rows):
        ids = torch.tensor(row.ids)
        input_ids[index, : len(ids) - 1] = ids[:-1]
        targets[index, row.start - 1 : len(ids) - 1] = ids[row.start :]
    return Batch(input_ids, targets[:, first:], length - first)


def batch_indices(count: int, size: int, seed: int, step: int) -> list[int]:
    """Which of `count` examples the batch of `step` (from 0) holds: epochs without replacement."""
    places = range(step * size, (step + 1) * size)
    return [_order(count, seed, place // count)[place % count] for place in places]


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(f"batches/{seed}/{epoch}").shuffle(order)
    return tuple(order)
