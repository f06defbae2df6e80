from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.conversation import Conversation, fault, load_conversation
from engines.errors import PromptError

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TEXT = st.text(min_size=1).filter(lambda text: text.strip() != "")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


@given(system=TEXT, turns=st.lists(st.tuples(TEXT, TEXT), max_size=3), last=TEXT)
def test_messages_come_back_as_they_were(
    system: str, turns: list[tuple[str, str]], last: str
) -> None:
    pairs = [pair for q, a in turns for pair in (("user", q), ("assistant", a))]
    messages = said(("system", system), *pairs, ("user", last))
    conversation = Conversation.of(messages)
    assert conversation.messages == messages
    assert conversation.tools == []
    for other in (copy.deepcopy(conversation), pickle.loads(pickle.dumps(conversation))):
        assert isinstance(other, Conversation)
        assert other == conversation
    assert json.loads(json.dumps({"prompt": conversation}))["prompt"] == str(conversation)


@given(messages=JSON, tools=JSON)
def test_whatever_json_has_is_a_conversation_or_refused(messages: Any, tools: Any) -> None:
    if fault(messages, tools) is None:
        Conversation.of(messages, tools)
        return
    with pytest.raises(PromptError):
        Conversation.of(messages, tools)


def test_calls_and_tools_are_brought_into_one_form() -> None:
    messages = said(("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))
    messages += [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    messages += [{"role": "tool", "content": "1", "tool_call_id": "c"}]
    conversation = Conversation.of(
        messages, [{"name": "f"}, {"type": "function", "function": {"name": "g"}}]
    )
    asked, called, answered = conversation.messages
    assert asked == {"role": "user", "content": "ab"}
    assert called["content"] == ""
    assert called["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    ]
    assert answered == {"role": "tool", "content": "1"}
    assert [tool["function"]["name"] for tool in conversation.tools] == ["f", "g"]


@pytest.mark.parametrize(
    ("messages", "tools", "reason"),
    [
        ("hello", None, "no list"),
        ([], None, "no list"),
        ([3], None, "message that is int"),
        (said(("robot", "x")), None, "the role 'robot'"),
        (said(("user", 3)), None, "not text"),
        (said(("user", [{"type": "image"}])), None, "not text"),
        (said(("user", " ")), None, "an empty message of the user"),
        (said(("system", "x")), None, "begin with the user"),
        (said(("assistant", "x"), ("user", "y")), None, "begin with the user"),
        (said(("user", "x"), ("assistant", "y")), None, "one to answer"),
        (said(("user", "x"), ("system", "y"), ("user", "z")), None, "not the first"),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], None, "of the user"),
        ([{"role": "assistant", "tool_calls": [{}]}], None, "name and arguments"),
        ([{"role": "assistant", "tool_calls": "f"}], None, "name and arguments"),
        (said(("user", "x")), [3], "list of objects"),
        (said(("user", "x")), [{}], "without a name"),
    ],
)
def test_what_is_no_conversation_is_told(messages: Any, tools: Any, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        Conversation.of(messages, tools)


def test_an_answer_is_the_assistants() -> None:
    assert Conversation.answer({"role": "assistant", "tool_calls": [CALL]}).messages[0][
        "tool_calls"
    ]
    for message in ({"role": "user", "content": "x"}, {"role": "assistant", "content": ""}):
        with pytest.raises(PromptError, match="an answer with"):
            Conversation.answer(message)


def test_messages_before_a_conversation_share_its_system_message() -> None:
    shots = said(("system", "Be brief."), ("user", "1"), ("assistant", "2"))
    own = Conversation.of(said(("system", "Use tools."), ("user", "3")))
    assert own.after(shots).messages == said(
        ("system", "Be brief.\n\nUse tools."), ("user", "1"), ("assistant", "2"), ("user", "3")
    )
    assert own.after(shots[1:]).messages[0] == own.messages[0]
    assert own.reworded(str.upper).messages == own.messages
    assert own.reworded(lambda text: f"{text}!").messages[-1]["content"] == "3!"


def test_files_hold_messages_alone_or_with_tools(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(said(("user", "x"))))
    assert load_conversation(path).messages == said(("user", "x"))
    path.write_text(json.dumps({"messages": said(("user", "x")), "tools": [{"name": "f"}]}))
    assert load_conversation(path).tools[0]["function"] == {
        "name": "f",
        "description": "",
        "parameters": {"type": "object"},
    }
    for content in ("{", "3", "{}", '{"messages": []}'):
        path.write_text(content)
        with pytest.raises(PromptError):
            load_conversation(path)
    with pytest.raises(PromptError, match="cannot be read"):
        load_conversation(tmp_path / "none.json")
