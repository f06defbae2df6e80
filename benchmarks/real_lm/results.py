"""What has been measured, cell by cell, in one JSON file that later days go on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.locking import locked
from benchmarks.real_lm.recipes import ROWS
from engines.environment import cpu, environment
from engines.errors import DataError
from engines.files import write_json
from training.scoring import Score

SCHEMA = 1
SEARCHED = 0
"""The seed at which learning rates are compared."""


@dataclass
class Results:
    """`content`: model, data (hashes and counts), trainings (validation scores), cells (test
    scores), compiled (bundles and their scores), precision (of all that PyTorch computed),
    environment (the last; an entry has its own)."""

    path: Path
    content: dict[str, Any]
    precision: str | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        model: dict[str, Any],
        data: dict[str, Any],
        precision: str | None = None,
    ) -> Results:
        """The file at `path`, or a new one; `precision`, where PyTorch is to compute.

        Raises:
            DataError: what is in it was measured on another model or other splits, or in another
                precision.
        """
        fresh: dict[str, Any] = {"kind": "real_lm", "schema": SCHEMA, "model": model, "data": {}}
        fresh |= {"trainings": {}, "cells": {}, "compiled": {}}
        content = json.loads(path.read_text("utf-8")) if path.is_file() else fresh
        known = {"model": content["model"]} | {f"data {t}": v for t, v in content["data"].items()}
        now = {"model": model} | {f"data {t}": v for t, v in data.items()}
        if precision is not None:
            known |= {"precision": precision_of(content) or precision}
            now |= {"precision": precision}
        for name in known.keys() & now.keys():
            if known[name] != now[name]:
                raise DataError(
                    got=f"{path}, whose {name} is {json.dumps(known[name])}",
                    expected=json.dumps(now[name]),
                    fix="measure with the same as before, or write to another file with --results",
                )
        content["data"] |= data
        return cls(path, content, precision)

    def has(self, kind: str, *names: object) -> bool:
        """Whether the entry is there; `kind` is trainings, cells or compiled."""
        return _key(names) in self.content[kind]

    def get(self, kind: str, *names: object) -> dict[str, Any]:
        """The entry."""
        found: dict[str, Any] = self.content[kind][_key(names)]
        return found

    def put(self, kind: str, *names: object, value: dict[str, Any]) -> None:
        """Keep an entry, at once, beside what another process has added meanwhile."""
        here = environment()
        own = {name: here[name] for name in ("torch", "transformers", "peft")}
        with self._taken_up():
            self.content[kind][_key(names)] = {**value, "environment": {"cpu": cpu(), **own}}

    def save(self) -> None:
        """Write the file, with what another process has added meanwhile."""
        with self._taken_up():
            pass

    @contextmanager
    def _taken_up(self) -> Iterator[None]:
        """Inside, `content` is what the file has now, and nobody else changes it; then it is
        written."""
        with locked(self.path):
            if self.path.is_file():
                data = self.content["data"]
                self.content = json.loads(self.path.read_text("utf-8"))
                self.content["data"] |= data
            yield
            precision = precision_of(self.content) or self.precision
            if precision is not None:
                self.content["precision"] = precision
            self.content["environment"] = environment()
            write_json(self.path, self.content)

    def rate(self, task: str, row: str) -> float:
        """The learning rate with the best validation score at the seed of the search; the recipe's
        first if none was tried."""
        best, score = ROWS[row].rates[0], None
        for rate in self.tried(task, row):
            found = Score(**self.get("trainings", task, row, rate, SEARCHED)["validation"])
            if found.beats(score):
                best, score = rate, found
        return best

    def tried(self, task: str, row: str) -> list[float]:
        """The learning rates of the recipe that have been compared."""
        rates = ROWS[row].rates
        return [rate for rate in rates if self.has("trainings", task, row, rate, SEARCHED)]


def precision_of(content: dict[str, Any]) -> str | None:
    """What PyTorch computed a results' file in; older files have it in their cells alone."""
    cells = (cell.get("precision") for cell in content["cells"].values())
    found: str | None = content.get("precision") or next(filter(None, cells), None)
    return found


def _key(names: tuple[object, ...]) -> str:
    return "/".join(f"{name:.4g}" if isinstance(name, float) else str(name) for name in names)
