from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from art_export.report.read_results import read_bench, read_eval, read_verify
from engines.errors import DataError
from tests.art_export.report.samples import bench, evaluated, served, spread, verified, write


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at "a.b.c" replaced."""
    copied = copy.deepcopy(document)
    *parents, last = path.split(".")
    inner: Any = copied
    for name in parents:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[last] = value
    return copied


def test_verify_of_a_bundle(tmp_path: Path) -> None:
    found = read_verify(write(tmp_path / "v.json", verified()))
    assert (found.subject, found.art, found.precision) == ("bundle", "tools", "fp32")
    assert found.passed
    assert [check.name for check in found.checks][-1] == "prefill logits"
    assert (found.checks[1].absolute, found.checks[1].allowed) == (2e-7, 1e-5)
    assert found.figures["tokens_per_second"] == 701.0


def test_verify_of_a_server(tmp_path: Path) -> None:
    found = read_verify(write(tmp_path / "v.json", served()))
    assert (found.subject, found.art, found.precision) == ("http://localhost:8000", None, "fp32")
    assert found.figures == {}


@pytest.mark.parametrize(
    ("given", "way"),
    [
        ({}, "picture tools, on bundle"),
        ({"art": None}, "no picture, on bundle"),
        ({"art": None, "hint": True}, "asked in words, on bundle"),
        ({"art": None, "lora": "run/adapter"}, "LoRA run/adapter, on bundle"),
        ({"art": None, "soft_prompt": "soft"}, "soft prompt soft, on bundle"),
        ({"prompt": "shots.json"}, "picture tools and prompt shots.json, on bundle"),
    ],
)
def test_eval_says_what_was_asked(tmp_path: Path, given: dict[str, Any], way: str) -> None:
    found = read_eval(write(tmp_path / "e.json", evaluated() | given))
    assert (found.way, found.task, found.correct, found.n) == (way, "tools", 495, 500)


def test_bench(tmp_path: Path) -> None:
    found = read_bench(write(tmp_path / "b.json", bench()))
    assert (found.model, found.threads, found.repeats) == ("demo", 2, 5)
    art, merged, refit = found.methods
    assert list(art.mixed) == [1, 4, 16, 64]
    assert art.to_first_token["warm process"].median == 0.06
    assert merged.resident_bytes is None
    assert merged.accuracy[0].correct == 500
    assert (refit.measured, refit.reason) == (False, "no GPU here")
    assert [target.met for target in found.targets] == [True, False]


def test_numbers_come_in_order_whatever_the_file_has(tmp_path: Path) -> None:
    mixed = {"16": spread(2), "4": spread(3), "1": spread(1), "64": None}
    document = changed(bench(), "methods.art.mixed", mixed)
    assert list(read_bench(write(tmp_path / "b.json", document)).methods[0].mixed) == [1, 4, 16]


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("kind", "verify", "schema 1"),
        ("schema", 2, "schema 1"),
        ("methods", [], "'methods'"),
        ("methods.art", "fast", "'art'"),
        ("methods.art.status", "guessed", "'status'"),
        ("methods.art.steps.0.seconds.median", "0", "'median'"),
        ("methods.art.mixed.4.high", 1, "in this order"),
        ("methods.art.mixed.4.low", -1, "in this order"),
        ("methods.art.mixed", {"four": spread(1)}, "whole number"),
        ("methods.art.mixed", {"0": spread(1)}, "whole number"),
        ("methods.art.mixed", {"9" * 5000: spread(1)}, "whole number"),
        ("methods.art.accuracy.tools.high", 1.5, "0 to 1"),
        ("targets", [{"name": "a", "wanted": "b", "met": "yes"}], "'met'"),
    ],
)
def test_a_malformed_bench_is_one_clear_error(
    tmp_path: Path, path: str, value: Any, why: str
) -> None:
    where = write(tmp_path / "b.json", changed(bench(), path, value))
    with pytest.raises(DataError, match=r"b\.json") as caught:
        read_bench(where)
    assert why in caught.value.got


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    files = {"b": bench(), "v": verified(), "e": evaluated()}
    paths = {name: write(tmp_path / f"{name}.json", value) for name, value in files.items()}
    readers = {"b": read_bench, "v": read_verify, "e": read_eval}
    for kind, read in readers.items():
        for name, path in paths.items():
            if name != kind:
                with pytest.raises(DataError, match=rf"{name}\.json"):
                    read(path)
