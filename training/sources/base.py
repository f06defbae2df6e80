"""What a format of data is: how its lines become examples, and how answers to them are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.errors import DataError
from training.tasks.base import Example

Scorer = Callable[[str, str], bool]
"""(completion, reference answer) -> counts?"""
Reward = Callable[[str, str], float]
"""(completion, reference answer) -> 0..1"""


@dataclass(frozen=True)
class Line:
    """One JSON value of a file; `where` names it in messages."""

    value: Any
    where: str


@dataclass(frozen=True)
class Reading:
    """What a format makes of lines. `reward` is a name in `training.rewards`, or a function."""

    examples: tuple[Example, ...]
    is_correct: Scorer
    reward: str | Reward


@dataclass(frozen=True)
class Hub:
    """Where a data set lies on the Hugging Face hub: files of one revision. `test` files are the
    official test split; without any, splits are made here. `answers` go with the others, where
    a data set keeps them apart."""

    repository: str
    revision: str
    train: tuple[str, ...]
    test: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A form that lines can have.

    expected: an example of a line, for messages. known_by: tells from the first line whether a
    file has this form. max_new_tokens: the limit on generated tokens.
    """

    name: str
    expected: str
    known_by: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Sequence[Line]], Reading]
    max_new_tokens: int
    hub: Hub | None = None


@dataclass(frozen=True)
class Fields:
    """The keys of one line, read with the errors of its format."""

    row: Mapping[str, Any]
    where: str
    expected: str

    @classmethod
    def of(cls, line: Line, expected: str) -> Fields:
        """DataError unless the line is an object."""
        if not isinstance(line.value, dict):
            got = f"{line.where}: {type(line.value).__name__} instead of an object"
            raise DataError(got, expected, "correct that line")
        return cls(line.value, line.where, expected)

    def wrong(self, what: str) -> DataError:
        """The error that says what is wrong with this line."""
        return DataError(f"{self.where}: {what}", self.expected, "correct that line")

    def get(self, key: str) -> Any:
        """The value of a key that must be there."""
        if key not in self.row:
            found = ", ".join(map(str, self.row)) or "none"
            raise self.wrong(f"no key '{key}' (keys: {found})")
        return self.row[key]

    def text(self, key: str, name: str = "") -> str:
        """The text of a key, which must not be blank."""
        return self.said(name or f"'{key}'", self.get(key))

    def said(self, name: str, value: object) -> str:
        """`value` if it is text that says something."""
        if not isinstance(value, str):
            raise self.wrong(f"the {name} is {type(value).__name__}, not text")
        if not value.strip():
            raise self.wrong(f"the {name} is empty")
        return value
