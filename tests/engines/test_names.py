from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import OptionError
from engines.names import choose, closest

ENGINES = ("onnxruntime", "tensorrt", "openvino", "pytorch")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("onxruntime", "onnxruntime"),
        ("ONNXRuntime", "onnxruntime"),
        ("onnx", "onnxruntime"),
        ("openvno", "openvino"),
        ("tensor-rt", "tensorrt"),
        (" pytorch", "pytorch"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(typed: str, meant: str) -> None:
    with pytest.raises(OptionError) as caught:
        choose("engine", typed, ENGINES)
    assert repr(typed) in caught.value.got
    assert caught.value.fix == f"did you mean {meant!r}?"
    assert all(name in caught.value.expected for name in ENGINES)


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    with pytest.raises(OptionError) as caught:
        choose("engine", "qqq", ENGINES)
    assert "did you mean" not in str(caught.value)


def test_an_ambiguous_beginning_suggests_nothing() -> None:
    assert closest("a", ["alpha-long-name", "avocado-long-name"]) is None


def test_an_empty_choice_says_so() -> None:
    with pytest.raises(OptionError, match="there is no art yet"):
        choose("art", "x", [])


def test_a_long_list_is_cut() -> None:
    with pytest.raises(OptionError, match="and 88 more"):
        choose("art", "zzz", [f"n{i:03}" for i in range(100)])


@given(st.text(), st.sets(st.text()))
def test_only_known_names_are_ever_returned_or_suggested(name: str, known: set[str]) -> None:
    if name in known:
        assert choose("art", name, known) == name
        return
    with pytest.raises(OptionError):
        choose("art", name, known)
    guess = closest(name, known)
    assert guess is None or guess in known
