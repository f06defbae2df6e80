"""Accuracy on a task: the one place where completions are generated, scored and counted."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engines.errors import OptionError
from engines.runtime import Completion

Progress = Callable[[str, int, int], None]
"""(stage, done, total)"""
Z_95 = 1.959963984540054
"""The normal distribution's 97.5 % point: two sides of 2.5 % leave 95 %."""


Answer = str | Completion
Record = Callable[["Answered"], None]


class Example(Protocol):
    """What is asked and what is right; `training.tasks.Example` is one."""

    @property
    def prompt(self) -> str: ...
    @property
    def answer(self) -> str: ...


@dataclass(frozen=True)
class Answered:
    """One example's result. id: of the example, the same whatever was asked; pairs two runs.
    prompt: the question. tokens: generated ones, None where they were not told."""

    id: str
    prompt: str
    completion: str
    reference: str
    correct: bool
    tokens: int | None


@dataclass(frozen=True)
class Score:
    """`correct` of `n`; `accuracy` and its 95 % interval `low`..`high` as shares of 1; `seconds`
    of generating and scoring."""

    correct: int
    n: int
    accuracy: float
    low: float
    high: float
    seconds: float


def wilson_interval(correct: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """The score interval for a proportion, (low, high) as shares of 1.

    It stays inside 0..1 and keeps close to its nominal coverage for shares near 0 and 1, where
    the usual normal interval shrinks to nothing. E. B. Wilson, "Probable Inference, the Law of
    Succession, and Statistical Inference", Journal of the American Statistical Association
    22 (1927), pp. 209-212.

    Raises:
        OptionError: `n` is below 1, or `correct` is not in 0..n.
    """
    if n < 1 or not 0 <= correct <= n:
        raise OptionError(
            got=f"{correct} correct of {n}",
            expected="at least one example, and no more correct than there are",
            fix="score at least one example",
        )
    share, scale = correct / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == n else min(1.0, middle + half)
    return low, high


def evaluate(
    generate: Callable[[Sequence[str]], Sequence[Answer]],
    examples: Sequence[Example],
    is_correct: Callable[[str, str], bool],
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    record: Record | None = None,
) -> Score:
    """Score `generate` on `examples`.

    Args:
        generate: prompts -> completions, as many, in order; called with up to `batch_size`
            prompts of like length at a time, so that little of a batch is padding.
        is_correct: (completion, reference answer) -> counts?
        record: told every example's result, in no particular order.

    Raises:
        OptionError: there are no examples, or `batch_size` is below 1.
    """
    if batch_size < 1 or not examples:
        raise OptionError(
            got=f"{len(examples)} examples in batches of {batch_size}",
            expected="at least one example and a batch of at least one",
            fix="ask for more examples",
        )
    began = time.perf_counter()
    ordered = sorted(examples, key=lambda example: len(example.prompt))
    correct = 0
    for first in range(0, len(ordered), batch_size):
        _tell(progress, first, len(ordered))
        batch = ordered[first : first + batch_size]
        completions = generate([example.prompt for example in batch])
        for answer, example in zip(completions, batch, strict=True):
            found = _answered(answer, example, is_correct)
            correct += found.correct
            if record is not None:
                record(found)
    _tell(progress, len(ordered), len(ordered))
    low, high = wilson_interval(correct, len(ordered))
    seconds = time.perf_counter() - began
    return Score(correct, len(ordered), correct / len(ordered), low, high, seconds)


def example_id(example: Example) -> str:
    """16 hex digits that name an example by what it is about, not by how it is asked."""
    about = getattr(example, "content", example.prompt)
    return hashlib.sha256(json.dumps([about, example.answer]).encode()).hexdigest()[:16]


def _answered(answer: Answer, example: Example, is_correct: Callable[[str, str], bool]) -> Answered:
    text, tokens = (answer, None) if isinstance(answer, str) else (answer.text, answer.token_ids)
    return Answered(
        id=example_id(example),
        prompt=example.prompt,
        completion=text,
        reference=example.answer,
        correct=is_correct(text, example.answer),
        tokens=None if tokens is None else len(tokens),
    )


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress("evaluate", done, total)
