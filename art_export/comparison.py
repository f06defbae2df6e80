"""Comparing an engine with PyTorch piece by piece: of what was compared, only sums are kept.

The logits of one prompt of 1,000 tokens are a gigabyte where the vocabulary has 248,000 words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.reference import ReferenceAnswer

AT_ONCE = 2**22
"""Numbers that are subtracted at a time, so that no difference is as large as what it is of."""


@dataclass
class Difference:
    """Largest differences and equal choices of arrays that are added one after the other.

    absolute: largest |found - expected|, NaN if any is. scale: largest |expected|. rows: of all
    arrays together. same_top: rows whose largest number stands at the same place. misfit: the first
    two shapes that were not the same; such arrays are not compared.
    """

    absolute: float = 0.0
    scale: float = 0.0
    rows: int = 0
    same_top: int = 0
    misfit: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def add(self, found: NDArray[Any], expected: NDArray[Any]) -> None:
        """Compare arrays (rows, ...); neither is kept."""
        if found.shape != expected.shape:
            self.misfit = self.misfit or (found.shape, expected.shape)
            return
        count = max(1, AT_ONCE // max(1, expected[:1].size))
        for start in range(0, len(expected), count):
            self._add(found[start : start + count], expected[start : start + count])

    def _add(self, found: NDArray[Any], expected: NDArray[Any]) -> None:
        # `np.maximum`, unlike `max`, never loses a NaN.
        largest = np.abs(found - expected).max(initial=0.0)
        self.absolute = float(np.maximum(self.absolute, largest))
        self.scale = float(np.maximum(self.scale, np.abs(expected).max(initial=0.0)))
        self.rows += len(expected)
        if expected.ndim > 1:
            self.same_top += int((found.argmax(-1) == expected.argmax(-1)).sum())


@dataclass(frozen=True)
class Parting:
    """Where an answer first differs: its number, the step, and how far PyTorch's first two logits
    are apart there."""

    answer: int
    step: int
    margin: float


@dataclass
class Answers:
    """Greedy answers that are added one after the other.

    difference: of the logits at every step whose tokens before it were the same; after that they
    may differ. count: of answers; equal: to the last token. tokens: of PyTorch's. parting: of the
    first that is not equal.
    """

    difference: Difference = field(default_factory=Difference)
    count: int = 0
    equal: int = 0
    tokens: int = 0
    parting: Parting | None = None

    def add(self, logits: NDArray[np.float32], answer: ReferenceAnswer) -> None:
        """Compare logits (steps, vocabulary) of a greedy answer with PyTorch's."""
        total = len(answer.logits)
        agreed = _agreement(logits.argmax(-1).tolist(), answer.logits.argmax(-1).tolist())
        steps = min(agreed + 1, total)
        self.difference.add(logits[:steps], answer.logits[:steps])
        if agreed == total:
            self.equal += 1
        elif self.parting is None:
            second, first = np.partition(answer.logits[agreed], -2)[-2:]
            self.parting = Parting(self.count, agreed, float(first - second))
        self.count += 1
        self.tokens += total


def _agreement(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens from the start are the same, the end token included."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((step for step, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
