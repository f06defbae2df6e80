from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from art_export.report import fields
from art_export.report.fields import Fields, parse_object, read_object
from engines.errors import DataError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_values_of_the_asked_type_come_through() -> None:
    found = Fields({"a": "x", "b": 2, "c": 0.5, "d": True, "e": {"f": 1}, "g": ["y"]}, "file")
    assert found.text("a") == "x"
    assert found.integer("b") == 2
    assert found.number("b") == 2.0
    assert found.number("c") == 0.5
    assert found.flag("d")
    assert found.object("e").integer("f") == 1
    assert found.texts("g") == ("y",)


def test_absent_and_null_are_the_same() -> None:
    found = Fields({"null": None}, "file")
    for name in ("null", "absent"):
        assert found.text_or(name, None) is None
        assert found.number_or_none(name) is None
        assert found.object(name).values == {}
        assert found.objects(name) == ()
        assert found.texts(name) == ()
        with pytest.raises(DataError, match=name):
            found.number(name)


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("text", 1),
        ("integer", True),
        ("integer", 1.0),
        ("number", True),
        ("number", "1"),
        ("number", float("inf")),
        ("number", 10**400),
        ("flag", 1),
        ("object", []),
        ("objects", {}),
        ("objects", [1]),
        ("texts", [1]),
        ("texts", "abc"),
    ],
)
def test_another_type_is_refused_and_named(method: str, value: object) -> None:
    with pytest.raises(DataError, match=r"it\.json") as caught:
        getattr(Fields({"name": value}, "it.json"), method)("name")
    assert "'name'" in str(caught.value)


@given(JSON)
def test_a_value_of_any_kind_is_taken_or_refused(value: object) -> None:
    found = Fields({"name": value}, "file")
    found.numbers()
    assert all(isinstance(text, str) for text in found.plain().values())
    for method in ("text", "number", "integer", "flag", "object", "objects", "texts"):
        with suppress(DataError):
            getattr(found, method)("name")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "1", '{"a": NaN}', '{"a": Infinity}', "[" * 100_000, "1" * 5000],
    ids=lambda text: text[:8],
)
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="file"):
        parse_object(text, "file")


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    with suppress(DataError):
        parse_object(text, "file")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_object(tmp_path / "absent.json")
    with pytest.raises(DataError, match="directory"):
        read_object(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(DataError, match="UTF-8"):
        read_object(tmp_path / "latin.json")
    monkeypatch.setattr(fields, "LARGEST_FILE", 10)
    (tmp_path / "large.json").write_text(json.dumps({"a": "b" * 20}))
    with pytest.raises(DataError, match="was not read"):
        read_object(tmp_path / "large.json")
