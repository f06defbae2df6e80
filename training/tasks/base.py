"""What a task is: examples split by content, a target style, and a scorer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Problem:
    """One question before any style is chosen.

    `content` names what makes it this problem (template and every value in it); names the
    problem in a split, so that no content is shared between train, validation and test.
    """

    content: str
    question: str
    answers: dict[str, str]
    """The right answer in every style that the task knows: style -> text."""


@dataclass(frozen=True)
class Example:
    """A prompt (user text after the picture) and the answer that training asks for; `rejected` is
    a worse answer, where the data has pairs."""

    prompt: str
    answer: str
    content: str
    rejected: str | None = None


@dataclass(frozen=True)
class Task:
    """A family of problems with one style that the picture has to bring about."""

    name: str
    target: str
    """The style that counts as correct."""
    hints: dict[str, tuple[str, ...]]
    """style -> sentences that ask for it in words."""
    draw: Callable[[random.Random], Problem]
    is_correct: Callable[[str, str], bool]
    """(completion, reference answer) -> correct?"""
    max_new_tokens: int
    reward: str = "exact"
    """Name of the reward that reinforcement learning uses, in `training.rewards`."""

    def examples(
        self, split: Split, count: int, seed: int = 0, *, hint: bool = False
    ) -> list[Example]:
        """`count` examples of distinct content from `split`, the same for the same seed."""
        picked = []
        for problem in _distinct(self.draw, split, seed):
            picked.append(self._example(problem, hint))
            if len(picked) == count:
                return picked
        return picked

    def _example(self, problem: Problem, hint: bool) -> Example:
        prompt = problem.question
        if hint:
            prompt = f"{prompt} {self.hints[self.target][0]}"
        return Example(prompt, problem.answers[self.target], problem.content)


def split_of(content: str) -> Split:
    """The split of a content key: 80 % train, 8 % validation, 12 % test, by its SHA-256."""
    bucket = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big") % 100
    if bucket < 80:
        return "train"
    return "validation" if bucket < 88 else "test"


def _distinct(
    draw: Callable[[random.Random], Problem], split: Split, seed: int
) -> Iterator[Problem]:
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    misses = 0
    while misses < 100_000:
        problem = draw(rng)
        if problem.content in seen or split_of(problem.content) != split:
            misses += 1
            continue
        misses = 0
        seen.add(problem.content)
        yield problem
