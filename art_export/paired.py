"""Two ways to adapt one model, compared on the same examples.

Their accuracies are not independent, since both meet the same easy and hard examples; what tells
them apart are the examples that only one of them gets right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engines.errors import DataError, OptionError


class Outcome(Protocol):
    """One example's result; `art_export.evaluate.Answered` is one."""

    @property
    def id(self) -> str: ...
    @property
    def correct(self) -> bool: ...


@dataclass(frozen=True)
class McNemar:
    """n: examples that both were asked. b, c: of these, right for the first alone and for the
    second alone. p_value: two-sided, of a difference like this or greater if both are equally
    good."""

    n: int
    b: int
    c: int
    p_value: float

    @property
    def difference(self) -> float:
        """Accuracy of the first less that of the second, as a share of 1."""
        return (self.b - self.c) / self.n


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's test in its exact form: under equality each example that only one of the two gets
    right is a fair coin, so b is binomial(b + c, 1/2).

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947), pp. 153-157. The two-sided p-value is twice that of the
    smaller side, at most 1.

    Args:
        first, second: whether example i was answered rightly, by the one and by the other.

    Raises:
        OptionError: there are no examples, or not as many on both sides.
    """
    if len(first) != len(second) or not first:
        raise OptionError(
            got=f"{len(first)} and {len(second)} examples to compare",
            expected="the same examples on both sides, at least one",
            fix="score both on the same examples",
        )
    b = sum(bool(one and not other) for one, other in zip(first, second, strict=True))
    c = sum(bool(other and not one) for one, other in zip(first, second, strict=True))
    return McNemar(len(first), b, c, _two_sided(b, c))


def mcnemar_by_id(first: Mapping[str, bool], second: Mapping[str, bool]) -> McNemar:
    """As `mcnemar`, examples matched by their ids, whatever their order.

    Raises:
        OptionError: besides, when one side has an example that the other does not have.
    """
    foreign = sorted(first.keys() ^ second.keys())
    if foreign:
        raise OptionError(
            got=f"{len(foreign)} examples that only one side has, such as {foreign[0]}",
            expected="the same examples on both sides",
            fix="score both on the same task, split, seed and number of examples",
        )
    return mcnemar([first[key] for key in first], [second[key] for key in first])


def _two_sided(b: int, c: int) -> float:
    n, smaller = b + c, min(b, c)
    # Whole numbers up to the division: binomials of thousands do not fit a float.
    tail = sum(math.comb(n, k) for k in range(smaller + 1))
    return min(1.0, float(2 * tail / (1 << n)))


def compare(first: Iterable[Outcome], second: Mapping[str, bool]) -> McNemar:
    """`mcnemar_by_id` of results as `evaluate` records them and of those that were read."""
    return mcnemar_by_id({one.id: one.correct for one in first}, second)


def read_outcomes(path: Path) -> dict[str, bool]:
    """Example id -> right? from a file that `art-export eval --examples-out` wrote.

    Raises:
        DataError: the file cannot be read, or a line is of another form, or an id is there twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, f"which cannot be read: {error}") from error
    found: dict[str, bool] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            key, correct = row["id"], row["correct"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _unusable(path, f"whose line {number} is not one: {line[:60]!r}") from error
        if not isinstance(key, str) or not isinstance(correct, bool) or key in found:
            raise _unusable(path, f"whose line {number} is not one, or repeats an id")
        found[key] = correct
    return found


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        got=f"{path}, {why}",
        expected='lines like {"id": "...", "correct": true}, one an example',
        fix="give a file that art-export eval --examples-out wrote",
    )
