"""Comparing piece by piece gives what comparing everything at once would, and keeps nothing."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from art_export import comparison
from art_export.comparison import Answers, Difference, Parting
from engines.reference import ReferenceAnswer

Pair = tuple[np.ndarray, np.ndarray]


def _pairs(count: int, rows: int, words: int) -> Iterator[Pair]:
    """One pair at a time: nothing but who compares them can keep them."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        expected = rng.standard_normal((rows, words)).astype(np.float32)
        yield expected + rng.standard_normal((rows, words)).astype(np.float32) / 10, expected


@pytest.mark.parametrize("at_once", [1, 40, comparison.AT_ONCE])
def test_pieces_add_up(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "AT_ONCE", at_once)
    difference = Difference()
    for pair in _pairs(5, rows=7, words=11):
        difference.add(*pair)
    found, expected = (np.concatenate(side) for side in zip(*_pairs(5, 7, 11), strict=True))
    same = int((found.argmax(-1) == expected.argmax(-1)).sum())
    assert 0 < same < 35
    assert difference == Difference(
        absolute=float(np.abs(found - expected).max()),
        scale=float(np.abs(expected).max()),
        rows=35,
        same_top=same,
    )


def test_no_more_than_one_pair_is_in_memory() -> None:
    """Twelve pairs of 8 MB arrays, and room for less than two pairs, differences included."""
    rows, words, difference = 50, 40_000, Difference()
    each = rows * words * np.float32().itemsize
    tracemalloc.start()
    for pair in _pairs(12, rows, words):
        difference.add(*pair)
        del pair
    # While a pair is made, `standard_normal` takes twice its bytes.
    assert tracemalloc.get_traced_memory()[1] < 6 * each
    tracemalloc.stop()
    assert difference.rows == 12 * rows


def test_a_difference_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    found, expected = next(_pairs(1, 400, 5_000))
    monkeypatch.setattr(comparison, "AT_ONCE", 50_000)
    tracemalloc.start()
    Difference().add(found, expected)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < found.nbytes / 10


@pytest.mark.parametrize("place", [0, 1])
def test_a_number_that_is_none_is_not_lost(place: int) -> None:
    difference = Difference()
    for step in range(2):
        found = np.full((1, 2), math.nan if step == place else 1.0)
        difference.add(found, np.zeros((1, 2)))
    assert math.isnan(difference.absolute)


def test_other_shapes_are_told_and_not_compared() -> None:
    difference = Difference()
    difference.add(np.ones((2, 3)), np.ones((2, 4)))
    assert difference == Difference(misfit=((2, 3), (2, 4)))


def _logits(*tokens: int, words: int = 6) -> np.ndarray:
    return np.eye(words, dtype=np.float32)[list(tokens)]


def _answer(*tokens: int) -> ReferenceAnswer:
    return ReferenceAnswer("", tokens, _logits(*tokens))


def test_answers_are_compared_up_to_where_they_part() -> None:
    """Logits at the step that parts are of the same text before it; those after it are not."""
    answers = Answers()
    answers.add(_logits(1, 2, 3), _answer(1, 2, 3))
    answers.add(_logits(1, 4, 3, 5), _answer(1, 2, 5))
    answers.add(_logits(5, 2), _answer(1, 2))
    assert (answers.count, answers.equal, answers.tokens) == (3, 1, 8)
    assert answers.difference.rows == 3 + 2 + 1
    assert answers.parting == Parting(answer=1, step=1, margin=1.0)


def test_what_comes_after_the_end_token_does_not_count() -> None:
    answers = Answers()
    answers.add(_logits(1, 2, 3, 4), _answer(1, 2))
    assert (answers.equal, answers.difference.rows) == (1, 2)
