from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import DataError
from tests.shared_data import shared
from training.data import FileSource, find_source, load_files
from training.rewards import load_reward
from training.sources.base import Line
from training.sources.bfcl import REQUEST, read_bfcl
from training.sources.bfcl_rules import TYPES, accepts
from training.tasks import SPLITS

FUNCTION = {
    "name": "area.triangle",
    "description": "Area.",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "integer"},
            "height": {"type": "float"},
            "unit": {"type": "string"},
        },
        "required": ["base", "height"],
    },
}
ROW = {
    "question": [[{"role": "user", "content": "Area of 10 by 5?"}]],
    "function": [FUNCTION],
    "ground_truth": [{"area.triangle": {"base": [10], "height": [5.0], "unit": ["cm", ""]}}],
}
REFERENCE = '{"name": "area.triangle", "arguments": {"base": 10, "height": 5.0}}'


def call(**arguments: Any) -> str:
    return json.dumps({"name": "area.triangle", "arguments": arguments})


def test_prompt_and_answer() -> None:
    (example,) = read_bfcl([Line(ROW, "line 1")]).examples
    assert example.answer == REFERENCE
    start = f"Functions:\n{json.dumps(FUNCTION)}\n\nArea of 10 by 5?\n\n"
    assert example.prompt == start + REQUEST


@pytest.mark.parametrize(
    ("completion", "counts"),
    [
        (REFERENCE, True),
        (f"```json\n{REFERENCE}\n```", True),
        (f"<tool_call>\n{REFERENCE}\n</tool_call>", True),
        (f"[{REFERENCE}]", True),
        (call(base=10, height=5), True),
        (call(height=5, base=10, unit="C M."), True),
        (call(base=10.0, height=5), False),
        (call(base="10", height=5), False),
        (call(base=True, height=5), False),
        (call(base=10), False),
        (call(base=10, height=5, unit="m"), False),
        (call(base=10, height=5, extra=1), False),
        (call(base=11, height=5), False),
        (REFERENCE.replace("area.triangle", "area_triangle"), False),
        (f"Sure: {REFERENCE}", False),
        (f"[{REFERENCE}, {REFERENCE}]", False),
        (json.dumps({"name": "area.triangle"}), False),
        ("", False),
        ("[]", False),
    ],
)
def test_what_counts(completion: str, counts: bool) -> None:
    reading = read_bfcl([Line(ROW, "line 1")])
    assert reading.is_correct(completion, REFERENCE) is counts
    assert callable(reading.reward)
    reward = reading.reward(completion, REFERENCE)
    assert (reward == 1.0) is counts
    assert 0 <= reward <= 1


def test_the_reward_grows_with_what_is_right() -> None:
    reward: Any = read_bfcl([Line(ROW, "line 1")]).reward
    wrong_name = json.dumps({"name": "f", "arguments": {}})
    steps = ["no call", wrong_name, call(), call(base=10), call(base=10, height=5)]
    scores = [reward(step, REFERENCE) for step in steps]
    assert scores == sorted(scores)
    assert scores == pytest.approx([0.0, 0.1, 0.3, 0.6, 1.0])


ARGUMENT = {
    "array": {"type": "array", "items": {"type": "float"}},
    "dict": {"type": "dict", "properties": {}},
    "dicts": {"type": "array", "items": {"type": "dict"}},
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "tuple": {"type": "tuple", "items": {"type": "integer"}},
    "boolean": {"type": "boolean"},
}


@pytest.mark.parametrize(
    ("kind", "allowed", "right", "wrong"),
    [
        ("array", [[1.0, 3.0]], [[1.0, 3.0]], [[1, 3], [3.0, 1.0], [1.0], "1,3", []]),
        ("array", [[1.0], ""], [[1.0], []], [[2.0]]),
        ("tuple", [[1, 2]], [[1, 2]], [[1.0, 2.0]]),
        ("string", ["New York", "NYC"], ["new-york", "nyc", "N.Y.C"], ["York", 1, ""]),
        ("integer", ["amount", 5], ["amount"], ["Amount", 5.0]),
        ("boolean", [True], [True], [1, "true", False]),
        (
            "dict",
            [{"a": ["x", "y"], "b": [1, ""]}],
            [{"a": "X"}, {"a": "y", "b": 1}],
            [{"b": 1}, {"a": "z"}, {"a": "x", "c": 1}, "x", {}],
        ),
        ("dict", [""], [], [{}, {"a": 1}]),
        (
            "dicts",
            [[{"f": ["age"]}, {"f": ["job"]}]],
            [[{"f": "Age"}, {"f": "job"}]],
            [[{"f": "job"}, {"f": "age"}], [{"f": "age"}], [], {"f": "age"}],
        ),
    ],
)
def test_the_rules_by_type(kind: str, allowed: Any, right: Any, wrong: Any) -> None:
    schema = {"properties": {"x": ARGUMENT[kind]}, "required": []}
    for value in right:
        assert accepts(schema, {"x": allowed}, {"x": value}), value
    for value in wrong:
        assert not accepts(schema, {"x": allowed}, {"x": value}), value
    assert accepts(schema, {"x": allowed}, {}) is ("" in allowed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(kind=st.sampled_from(sorted(TYPES)), value=JSON, allowed=st.lists(JSON, max_size=3))
def test_any_value_is_judged(kind: str, value: Any, allowed: list[Any]) -> None:
    declared = {"type": kind, "items": {"type": "string"}}
    lists = [one if isinstance(one, list) else [one] for one in allowed]
    schema = {"properties": {"x": declared}, "required": ["x"]}
    values = lists if kind in ("array", "tuple") else allowed
    assert accepts(schema, {"x": values}, {"x": value}) in (True, False)


@given(completion=st.text() | JSON.map(json.dumps))
def test_any_completion_is_judged(completion: str) -> None:
    reading = read_bfcl([Line(ROW, "line 1")])
    assert reading.is_correct(completion, REFERENCE) in (True, False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": [[{"role": "system", "content": "x"}]]}, "not one message of the user"),
        ({"question": "x"}, "not one message of the user"),
        ({"function": []}, "functions without a name"),
        ({"function": [{"name": "f", "parameters": {}}]}, "unknown types"),
        ({"ground_truth": []}, "not one call"),
        ({"ground_truth": [{"f": {}}]}, "none of the functions"),
        ({"ground_truth": [{"area.triangle": {"base": 10}}]}, "lists of allowed values"),
        ({"ground_truth": [{"area.triangle": {"base": [10]}}]}, "no call of its own schema"),
    ],
)
def test_a_malformed_row_is_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_bfcl([Line(ROW | changed, "line 1")])


def test_questions_and_answers_in_two_files_are_joined(tmp_path: Path) -> None:
    (tmp_path / "possible_answer").mkdir()
    asked, answers = tmp_path / "simple.json", tmp_path / "possible_answer" / "simple.json"
    rows = [
        ROW | {"id": f"s{i}", "question": [[{"role": "user", "content": f"q{i}"}]]} for i in "abc"
    ]
    keys = ("id", "question", "function")
    asked.write_text("\n".join(json.dumps({k: row[k] for k in keys}) for row in rows))
    answers.write_text(
        "\n".join(json.dumps({k: row[k] for k in ("id", "ground_truth")}) for row in rows[::-1])
    )
    source = load_files(asked)
    assert isinstance(source, FileSource)
    assert sum(len(source.examples(split, 9)) for split in SPLITS) == 3
    answers.unlink()
    with pytest.raises(DataError, match="no key 'ground_truth'"):
        load_files(asked)


def test_the_real_file_is_read_and_scores_itself() -> None:
    source = find_source(str(shared("bfcl/simple_train.jsonl")))
    reward = load_reward(None, source)
    found = [example for split in SPLITS for example in source.examples(split, 10**6)]
    assert len(found) == 250
    for example in found:
        assert source.is_correct(example.answer, example.answer)
        assert reward(example.answer, example.answer) == 1.0
        assert not source.is_correct("{}", example.answer)
