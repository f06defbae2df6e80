"""The lines of data files: JSON Lines in UTF-8, or Parquet where pyarrow is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from engines.errors import DataError
from training.sources.base import Line

ANSWERS = "possible_answer"
"""BFCL's folder of answers, beside the questions, with files of the same names."""


def read_lines(path: Path, expected: str) -> list[Line]:
    """Every value in `path`; blank lines are skipped.

    Args:
        expected: an example of a line, for messages.

    Raises:
        DataError: the file is missing or cannot be read, or a line is not JSON.
    """
    if not path.is_file():
        raise DataError(
            got=f"{path}, which is {'a folder' if path.is_dir() else 'not there'}",
            expected="a JSONL file",
            fix="check the path",
        )
    lines = _parquet(path) if path.suffix == ".parquet" else list(_json_lines(path, expected))
    if not lines:
        raise DataError(f"{path.name} without any example", f"lines like {expected}", "add lines")
    return _with_answers(lines, path)


def _json_lines(path: Path, expected: str) -> Iterator[Line]:
    try:
        texts = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            got=f"{path.name}, whose byte {error.start} is not UTF-8",
            expected="a JSONL file in UTF-8",
            fix="save it as UTF-8",
        ) from error
    for number, text in enumerate(texts, 1):
        if text.strip():
            where = f"line {number} of {path.name}"
            yield Line(_parsed(text, where, expected), where)


def _parsed(text: str, where: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        raise DataError(
            got=f"{where}: not JSON ({reason}): {_short(text)}",
            expected=expected,
            fix="write one JSON object a line",
        ) from error


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[:limit] + "..."


def _parquet(path: Path) -> list[Line]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            got=f"{path.name}, a Parquet file, and no pyarrow to read it",
            expected="pyarrow, or the same data as JSONL",
            fix="pip install pyarrow",
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            got=f"{path.name}, which cannot be read as Parquet: {error}",
            expected="a whole Parquet file",
            fix="copy or download the file again",
        ) from error
    return [Line(row, f"row {number} of {path.name}") for number, row in enumerate(rows, 1)]


def _with_answers(lines: list[Line], path: Path) -> list[Line]:
    """BFCL keeps questions and answers in two files: each question gets the answer of its id."""
    beside = path.parent / ANSWERS / path.name
    if path.parent.name == ANSWERS or not beside.is_file():
        return lines
    answers = {}
    for line in _json_lines(beside, '{"id": "...", "ground_truth": [...]}'):
        if isinstance(line.value, dict):
            answers[line.value.get("id")] = line.value
    return [
        Line({**answers.get(line.value.get("id"), {}), **line.value}, line.where)
        if isinstance(line.value, dict)
        else line
        for line in lines
    ]
