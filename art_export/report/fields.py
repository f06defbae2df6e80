"""Reading JSON that somebody else may have written: every value is checked as it is taken."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engines.errors import DataError
from engines.files import size_text

LARGEST_FILE = 64_000_000
"""Bytes. A run of a hundred thousand steps writes a quarter of it."""
_LARGEST_NUMBER = 1e300

T = TypeVar("T")


@dataclass(frozen=True)
class Fields:
    """One JSON object; `where` names it in messages. A name that is absent, and one that is null,
    are the same: a figure that was not measured."""

    values: Mapping[str, Any]
    where: str

    def text(self, name: str) -> str:
        """The string called `name`.

        Raises:
            DataError: as all methods here: it is missing or of another type.
        """
        return self._need(name, self.text_or(name, None), "text")

    def text_or(self, name: str, default: str | None) -> str | None:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(name, value, "text")
        return value

    def number(self, name: str) -> float:
        """The number called `name`, finite."""
        return self._need(name, self.number_or_none(name), "a number")

    def number_or_none(self, name: str) -> float | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not _is_number(value):
            raise self._wrong(name, value, "a finite number")
        return float(value)

    def integer(self, name: str) -> int:
        """The whole number called `name`."""
        value = self.values.get(name)
        if type(value) is not int or not _is_number(value):
            raise self._wrong(name, value, "a whole number")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.values.get(name)
        if type(value) is not bool:
            raise self._wrong(name, value, "true or false")
        return value

    def object(self, name: str) -> Fields:
        """The object called `name`; an empty one where it is absent."""
        value = self.values.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return Fields(value, f"{self.where}: {name}")

    def objects(self, name: str) -> tuple[Fields, ...]:
        """The objects of a list; none where it is absent."""
        found = []
        for number, value in enumerate(self._list(name), 1):
            if not isinstance(value, dict):
                raise self._wrong(name, value, "a list of objects")
            found.append(Fields(value, f"{self.where}: {name} {number}"))
        return tuple(found)

    def texts(self, name: str) -> tuple[str, ...]:
        """The strings of a list; none where it is absent."""
        values = self._list(name)
        for value in values:
            if not isinstance(value, str):
                raise self._wrong(name, value, "a list of texts")
        return tuple(values)

    def numbers(self) -> dict[str, float]:
        """Every value that is a number, by its name."""
        return {name: float(v) for name, v in self.values.items() if _is_number(v)}

    def plain(self) -> dict[str, str]:
        """Every text, number, flag and list of these, as text to be shown."""
        shown = {}
        for name, value in self.values.items():
            items = value if isinstance(value, list) else [value]
            texts = [text for text in map(_shown, items) if text is not None]
            if texts:
                shown[name] = ", ".join(texts)
        return shown

    def children(self) -> dict[str, Fields]:
        """Every object that is in this one, by its name; null stands for an empty one."""
        return {name: self.object(name) for name in self.values}

    def _list(self, name: str) -> Sequence[Any]:
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        return value

    def _need(self, name: str, value: T | None, kind: str) -> T:
        if value is None:
            raise self._wrong(name, None, kind)
        return value

    def _wrong(self, name: str, value: Any, wanted: str) -> DataError:
        found = "nothing" if value is None else reprlib.repr(value)
        return malformed(self.where, f"{name!r} is {found}, and should be {wanted}")


def malformed(where: str, what: str) -> DataError:
    """The error for a file that no command of this project wrote so."""
    return DataError(
        got=f"{where}: {what}",
        expected="the JSON as art-export wrote it: a run's folder, or what --json printed",
        fix="write the file again with the command that makes it",
    )


def read_object(path: Path) -> Fields:
    """The object in a JSON file.

    Raises:
        DataError: the file is missing, too large, no JSON, or something else than an object.
    """
    return parse_object(read_text(path), str(path))


def parse_object(text: str, where: str) -> Fields:
    """The object in a JSON text; errors as in `read_object`."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(where, f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise malformed(where, "no JSON object")
    return Fields(value, where)


def read_text(path: Path) -> str:
    """A file's text; errors as in `read_object`."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise malformed(str(path), f"{size_text(size)} long, and was not read")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            got=f"{path}, which cannot be read: {error.strerror or error}",
            expected="a run's folder after --train, a JSON file after the other options",
            fix="look at the path; --json > FILE writes such a file",
        ) from error
    except ValueError as error:
        raise malformed(str(path), f"no text in UTF-8: {error}") from error


def _is_number(value: Any) -> bool:
    # JSON's true is an int to Python, 1e999 is an infinity, and an int may be longer than a float.
    return type(value) in (int, float) and abs(value) < _LARGEST_NUMBER


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _shown(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_number(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return None
