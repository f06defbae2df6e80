"""What has been measured, cell by cell, in one JSON file that later days go on with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real_lm.recipes import ROWS
from engines.environment import environment
from engines.errors import DataError
from engines.files import write_json
from training.scoring import Score

SCHEMA = 1
SEARCHED = 0
"""The seed at which learning rates are compared."""


@dataclass
class Results:
    """`content`: model, data (hashes and counts), trainings (validation scores), cells (test
    scores), compiled (bundles and their scores), environment (the last; an entry has its own)."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def open(cls, path: Path, model: dict[str, Any], data: dict[str, Any]) -> Results:
        """The file at `path`, or a new one.

        Raises:
            DataError: what is in it was measured on another model or other splits.
        """
        fresh: dict[str, Any] = {"kind": "real_lm", "schema": SCHEMA, "model": model, "data": {}}
        fresh |= {"trainings": {}, "cells": {}, "compiled": {}}
        content = json.loads(path.read_text("utf-8")) if path.is_file() else fresh
        known = {"model": content["model"]} | {f"data {t}": v for t, v in content["data"].items()}
        now = {"model": model} | {f"data {t}": v for t, v in data.items()}
        for name in known.keys() & now.keys():
            if known[name] != now[name]:
                raise DataError(
                    got=f"{path}, whose {name} is {json.dumps(known[name])}",
                    expected=json.dumps(now[name]),
                    fix="assemble the same model again, or write to another file with --results",
                )
        content["data"] |= data
        return cls(path, content)

    def has(self, kind: str, *names: object) -> bool:
        """Whether the entry is there; `kind` is trainings, cells or compiled."""
        return _key(names) in self.content[kind]

    def get(self, kind: str, *names: object) -> dict[str, Any]:
        """The entry."""
        found: dict[str, Any] = self.content[kind][_key(names)]
        return found

    def put(self, kind: str, *names: object, value: dict[str, Any]) -> None:
        """Keep an entry, at once, beside what another process has added meanwhile."""
        self.reload()
        here = environment()
        own = {name: here[name] for name in ("cpu", "torch", "transformers", "peft")}
        self.content[kind][_key(names)] = {**value, "environment": own}
        self.save()

    def reload(self) -> None:
        """Take up what the file has now."""
        if self.path.is_file():
            data = self.content["data"]
            self.content = json.loads(self.path.read_text("utf-8"))
            self.content["data"] |= data

    def save(self) -> None:
        """Write the file."""
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


def _key(names: tuple[object, ...]) -> str:
    return "/".join(f"{name:.4g}" if isinstance(name, float) else str(name) for name in names)
