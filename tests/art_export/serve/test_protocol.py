from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from art_export.serve.protocol import ChatRequest, first_fault
from engines.conversation import Conversation
from engines.errors import PromptError
from engines.sampling import SamplingOptions

TURN = {"role": "user", "content": "Call"}
TOOL = {"type": "function", "function": {"name": "call", "parameters": {"type": "object"}}}


def _parsed(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate_json(json.dumps({"messages": [TURN], **fields}))


def test_what_is_not_said_is_greedy() -> None:
    question = _parsed().question("tools")
    assert question.sampling == SamplingOptions(temperature=0.0)
    assert (question.art, question.prompt, question.max_new_tokens) == ("tools", "Call", None)
    assert not question.stream


def test_everything_arrives() -> None:
    asked = _parsed(
        temperature=1, top_p=0.5, top_k=3, seed=-1, stop=["a", "b"], max_tokens=7, stream=True
    )
    question = asked.question(None)
    assert question.sampling == SamplingOptions(1.0, 3, 0.5)
    assert question.seed == 2**64 - 1
    assert (question.stops, question.max_new_tokens, question.stream) == (("a", "b"), 7, True)
    assert _parsed(max_completion_tokens=3, max_tokens=9).wanted_tokens == 3


def test_one_turn_is_a_plain_prompt_and_several_a_conversation() -> None:
    parts = [{"type": "text", "text": "Call "}, {"type": "text", "text": "Bob"}]
    plain = _parsed(messages=[{"role": "user", "content": parts}]).question(None).prompt
    assert plain == "Call Bob"
    assert not isinstance(plain, Conversation)
    system = [{"role": "system", "content": "Be brief."}, TURN]
    assert isinstance(_parsed(messages=system).question(None).prompt, Conversation)
    assert isinstance(_parsed(tools=[TOOL]).question(None).prompt, Conversation)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"messages": "Call"}, "messages"),
    ],
)
def test_what_is_not_supported_is_named(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _parsed(**fields)
    found, message = first_fault(caught.value)
    assert found == name
    assert message.startswith(name)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "x"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
        [{"role": "user", "content": " "}],
    ],
)
def test_messages_that_are_no_chat(messages: list[Any]) -> None:
    with pytest.raises(PromptError):
        _parsed(messages=messages).question(None)
