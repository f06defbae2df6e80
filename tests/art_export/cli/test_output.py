from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from art_export.cli.output import facts, jsonable, percent, print_json, seconds, table


@dataclass(frozen=True)
class Inner:
    path: Path


@dataclass(frozen=True)
class Outer:
    inner: Inner
    share: float


def test_jsonable_takes_what_results_are_made_of() -> None:
    value = {
        "result": Outer(Inner(Path("a/b")), float("nan")),
        "mapping": MappingProxyType({1: (True, None)}),
        "scalar": np.float32(0.5),
    }
    assert jsonable(value) == {
        "result": {"inner": {"path": "a/b"}, "share": None},
        "mapping": {"1": [True, None]},
        "scalar": 0.5,
    }


def test_print_json_is_one_strict_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"colour": "grün", "low": float("-inf")})
    assert json.loads(capsys.readouterr().out) == {"colour": "grün", "low": None}


def test_table_aligns_numbers_to_the_right() -> None:
    text = table(("stage", "n"), [("vision", 7), ("prefill", 1234)])
    assert text.splitlines() == ["stage       n", "-------  ----", "vision      7", "prefill  1234"]


def test_table_without_rows() -> None:
    assert table(("a", "b"), []).splitlines() == ["a  b", "-  -"]


def test_facts_share_a_column() -> None:
    assert facts([("a", 1), ("long", "x")]) == "a     1\nlong  x"


def test_units() -> None:
    assert seconds(0.0123) == "12.3 ms"
    assert seconds(83.21) == "83.2 s"
    assert percent(0.985) == "98.5 %"
