from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.sources.calls import Call, equal, matched, read_answer, same

NAME = st.from_regex(r"[a-z][a-z_.]{0,8}", fullmatch=True)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
CALL = st.builds(Call, NAME, st.dictionaries(NAME, VALUE, max_size=3))


def written(call: Call) -> str:
    return json.dumps({"name": call.name, "arguments": call.arguments})


def tagged(call: Call) -> str:
    """As Qwen3.5's template writes a call."""
    values = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in call.arguments.items()
    }
    inner = "".join(
        f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items()
    )
    return f"<function={call.name}>\n{inner}</function>"


def test_a_call_is_found_in_every_form() -> None:
    call = Call("f", {"x": 1, "y": "two words"})
    forms = [
        written(call),
        f" {written(call)}\n",
        f"```json\n{written(call)}\n```",
        f"<tool_call>\n{written(call)}\n</tool_call>",
        f"<tool_call>{written(call)}",
        f"<tool_call>\n{tagged(call)}\n</tool_call>",
        json.dumps(
            [
                {
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"x": 1, "y": "two words"}'},
                }
            ]
        ),
    ]
    for form in forms:
        answer = read_answer(form)
        assert matched(answer.calls, [call]), form
        assert answer.text == ""


@given(calls=st.lists(CALL, min_size=1, max_size=3), text=st.text(max_size=20))
def test_calls_in_tags_are_read_beside_text(calls: list[Call], text: str) -> None:
    text = text.replace("<", "").replace("`", "")
    blocks = "\n".join(f"<tool_call>\n{written(call)}\n</tool_call>" for call in calls)
    answer = read_answer(f"{text} {blocks}")
    assert answer.calls == tuple(calls)
    assert answer.text.strip() == text.strip()
    assert matched(answer.calls[::-1], calls)
    assert not matched(answer.calls[1:], calls)
    assert not matched((*answer.calls, calls[0]), calls)


@given(text=st.text() | st.text(alphabet='<>/=tool_cal{}"[]:, \n', max_size=60))
def test_any_text_is_read(text: str) -> None:
    answer = read_answer(text)
    assert answer.calls or answer.text == text.strip()


@given(value=VALUE, other=VALUE)
def test_equality_is_that_of_json(value: Any, other: Any) -> None:
    assert same(value, json.loads(json.dumps(value)))
    if same(value, other):
        assert json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)


@pytest.mark.parametrize(
    ("found", "wanted", "alike"),
    [(True, 1, False), (1, 1.0, True), ([1, True], [1, 1], False), ({"a": 1}, {"a": 1.0}, True)],
)
def test_numbers_are_numbers_and_truth_is_truth(found: Any, wanted: Any, alike: bool) -> None:
    assert same(found, wanted) is alike


def test_bare_text_stands_for_number_or_text() -> None:
    (found,) = read_answer(f"<tool_call>{tagged(Call('f', {'x': 5, 'y': '5'}))}</tool_call>").calls
    assert not found.typed
    assert equal(found, Call("f", {"x": 5, "y": "5"}))
    assert equal(found, Call("f", {"x": "5", "y": 5}))
    assert not equal(found, Call("f", {"x": 6, "y": "5"}))
    assert not equal(found, Call("f", {"x": 5}))
