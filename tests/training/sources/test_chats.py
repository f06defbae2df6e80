"""Chats of the user's own and of ToolMind: prompts, answers, and what counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.conversation import Conversation
from engines.errors import DataError
from training.data import data_hash, find_source
from training.sources.base import Line
from training.sources.chats import read_chats
from training.sources.tool_answers import is_correct, reward
from training.sources.toolmind import read_toolmind
from training.tasks import Example

ALARM = {"name": "set_alarm", "description": "", "parameters": {}}
TOOLS = [{"type": "function", "function": ALARM}]
CALL = {"function": {"name": "set_alarm", "arguments": {"time": "07:30", "count": 2}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wake me."}]
ROW: dict[str, Any] = {"messages": [*ASKED, CALLING], "tools": TOOLS}


def read(row: Any) -> Example:
    return read_chats([Line(row, "line 1")]).examples[0]


def toolmind(*messages: dict[str, Any]) -> Example:
    row = {"conversations": list(messages), "tools": TOOLS}
    return read_toolmind([Line(row, "line 1")]).examples[0]


def written(*calls: dict[str, Any]) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps(c['function'])}\n</tool_call>" for c in calls)


def with_arguments(**arguments: Any) -> dict[str, Any]:
    return {"function": {"name": "set_alarm", "arguments": arguments}}


def test_the_last_message_is_the_answer() -> None:
    example = read(ROW)
    assert isinstance(example.prompt, Conversation)
    assert example.prompt.messages == ASKED
    assert example.prompt.tools == TOOLS
    assert isinstance(example.answer, Conversation)
    assert example.answer.messages[0]["tool_calls"][0]["function"] == CALL["function"]
    spoken = read(
        {
            "messages": [
                *ROW["messages"],
                {"role": "tool", "content": "done"},
                {"role": "assistant", "content": "Set."},
            ]
        }
    )
    assert spoken.answer == "Set."
    assert len(Conversation(spoken.prompt).messages) == 4


def test_one_turn_each_is_what_it_always_was() -> None:
    pair = [{"role": "user", "content": "q "}, {"role": "assistant", "content": "a"}]
    example = read({"messages": pair})
    assert example == Example("q ", "a", "jsonl/q")
    assert not isinstance(example.prompt, Conversation)
    assert data_hash([example]) == data_hash([read({"prompt": "q ", "answer": "a"})])
    assert data_hash([example]) != data_hash([read({"messages": pair, "tools": TOOLS})])


def test_calls_count_in_any_order_and_form() -> None:
    other = with_arguments(time="08:00", count=1)
    answer = read({"messages": [*ASKED, CALLING | {"tool_calls": [CALL, other]}]}).answer
    assert is_correct(written(other, CALL), answer)
    assert is_correct("Of course.\n" + written(CALL, other), answer)
    assert is_correct(json.dumps([CALL["function"], other["function"]]), answer)
    for wrong in (written(CALL), written(CALL, other, other), written(CALL, CALL), "", str(answer)):
        assert not is_correct(wrong, answer)
    assert is_correct(" yes\n", "yes")
    assert not is_correct(written(CALL), "yes")


def test_the_reward_goes_by_parts() -> None:
    answer = read(ROW).answer
    half = written(with_arguments(time="07:30", count=3))
    named = written({"function": {"name": "set_alarm", "arguments": {}}})
    other = written({"function": {"name": "f", "arguments": {}}})
    scores = [reward(text, answer) for text in ("", other, named, half, written(CALL))]
    assert scores == pytest.approx([0.0, 0.1, 0.3, 0.6, 1.0])
    assert reward(written(CALL, CALL), answer) == pytest.approx(0.1 + 0.1 + 0.3)
    assert (reward("yes", "yes"), reward("no", "yes")) == (1.0, 0.0)


@given(completion=st.text())
def test_any_completion_is_scored(completion: str) -> None:
    answer = read(ROW).answer
    assert is_correct(completion, answer) in (True, False)
    assert 0 <= reward(completion, answer) <= 1


def test_toolminds_last_turn_of_the_assistant_is_learnt() -> None:
    thinking = CALLING | {"content": "<think>\nHm.\n</think>\n\nWell."}
    tail = {"role": "tool", "content": "done"}
    example = toolmind(*ASKED, thinking, tail, thinking, tail)
    assert isinstance(example.prompt, Conversation)
    assert [m["role"] for m in example.prompt.messages] == ["system", "user", "assistant", "tool"]
    assert example.prompt.messages[2]["content"] == "Well."
    assert Conversation(example.answer).messages[0]["content"] == "Well."
    shorter = toolmind(*ASKED, thinking)
    assert shorter.content == example.content == "toolmind/Wake me."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": "x", "tools": []}, "not a list of objects"),
        ({"conversations": [], "tools": []}, "without a turn"),
        ({"conversations": ASKED, "tools": []}, "without a turn"),
        ({"conversations": [*ASKED, CALLING | {"tool_calls": [{"function": {}}]}]}, "name and arg"),
        ({"conversations": [*ASKED, CALLING], "tools": "x"}, "tools that are not a list"),
    ],
)
def test_a_malformed_row_is_told(row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_toolmind([Line(row, "line 1")])


def test_a_file_is_known_by_its_first_line(tmp_path: Path) -> None:
    rows = {
        "gsm8k": {"question": "q", "answer": "#### 1"},
        "svamp": {"Body": "b", "Question": "q", "Equation": "1", "Answer": 1},
        "toolmind": {"conversations": [*ASKED, CALLING], "tools": TOOLS},
        "jsonl": ROW,
    }
    for name, row in rows.items():
        path = tmp_path / f"{name}.data.jsonl"
        text = json.dumps(row)
        path.write_text(
            "\n".join(text.replace("Wake", f"Wake {i}").replace('"q"', f'"q{i}"') for i in range(9))
        )
        known = find_source(str(path))
        assert known.name == (path.name if name == "jsonl" else f"{name}:{path.name}")
        assert find_source(f"{name}:{path}").name == known.name
    with pytest.raises(DataError, match="no key 'Body'"):
        find_source(f"svamp:{tmp_path / 'gsm8k.data.jsonl'}")
