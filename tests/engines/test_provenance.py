from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.provenance import KEYWORD, Provenance, read_provenance

SAMPLE = Provenance(
    base_model="demo",
    base_hash="ab" * 32,
    size=256,
    objective="sft",
    task="tools",
    data_hash="cd" * 32,
    seed=0,
    step=100,
    score=0.99,
    version="0.1",
)

some = st.builds(
    Provenance,
    **{name: st.text() for name in ("base_model", "base_hash", "objective", "task", "data_hash")},
    size=st.integers(),
    seed=st.integers(),
    step=st.integers(),
    score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    version=st.text(),
)


def read(text: str) -> tuple[Provenance | None, list[str]]:
    return read_provenance([("Title", "{}"), (KEYWORD, text)], "hash")


@given(some)
def test_a_record_comes_back_as_it_was(provenance: Provenance) -> None:
    text = provenance.to_text("hash")
    assert text.isascii()
    assert read(text) == (provenance, [])


def test_changed_pixels_are_told_and_the_record_kept() -> None:
    provenance, notes = read(SAMPLE.to_text("another hash"))
    assert provenance == SAMPLE
    assert "changed after training" in notes[0]


def test_none_is_told() -> None:
    assert read_provenance([("Title", "x")], "hash") == (None, ["it carries no provenance"])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "NaN", "[" * 100_000, "1" * 10_000, '{"format": 2}']
)
def test_what_cannot_be_understood_is_told_and_ignored(text: str) -> None:
    provenance, notes = read(text)
    assert provenance is None
    assert "cannot be understood" in notes[0]


def test_two_records_are_none() -> None:
    text = SAMPLE.to_text("hash")
    assert read_provenance([(KEYWORD, text)] * 2, "hash")[0] is None


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Provenance)])
@pytest.mark.parametrize("bad", ["missing", True, [], {}, float("nan"), float("inf")])
def test_each_field_must_be_there_with_its_type(field: str, bad: Any) -> None:
    record = json.loads(SAMPLE.to_text("hash"))
    if bad == "missing":
        del record[field]
    else:
        record[field] = bad
    provenance, notes = read(json.dumps(record))
    assert provenance is None
    assert "incomplete or of wrong types" in notes[0]


def test_an_absurd_score_does_not_overflow() -> None:
    record = {**json.loads(SAMPLE.to_text("hash")), "score": 10**400}
    assert read(json.dumps(record))[0] is not None


def test_fields_of_a_later_version_are_passed_over() -> None:
    record = {**json.loads(SAMPLE.to_text("hash")), "mood": "blue"}
    assert read(json.dumps(record)) == (SAMPLE, [])


def test_a_score_that_is_no_number_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(SAMPLE, score=float("nan")).to_text("hash")
