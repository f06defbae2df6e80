"""Chats of the user's own: prompt and answer, messages with or without tools, or a pair of
answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.conversation import Conversation
from engines.errors import PromptError
from training.sources.base import Fields, Format, Line, Reading
from training.sources.tool_answers import answer_of, is_correct, reward
from training.tasks.base import Example

LINE = (
    '{"prompt": "...", "answer": "..."} or {"messages": [{"role": "user", "content": "..."}, '
    '{"role": "assistant", "content": "..."}]} or {"prompt": "...", "chosen": "...", '
    '"rejected": "..."}'
)
NEW_TOKENS = 512
"""The limit on generated tokens, as in the released evaluation of ART."""


def read_chats(lines: Sequence[Line]) -> Reading:
    """Answers count by their calls, or by their text without outer white space."""
    return Reading(tuple(map(_example, lines)), is_correct, reward)


def _example(line: Line) -> Example:
    fields = Fields.of(line, LINE)
    if "messages" in fields.row:
        return _from_messages(fields)
    paired = "chosen" in fields.row or "rejected" in fields.row
    keys = ("prompt", "chosen", "rejected") if paired else ("prompt", "answer")
    prompt, answer, *worse = [fields.get(key) for key in keys]
    prompt, answer = fields.said("prompt", prompt), fields.said("answer", answer)
    rejected = fields.said("rejected answer", worse[0]) if worse else None
    # The prompt alone decides the split: two answers to one prompt must not straddle it.
    return Example(prompt, answer, f"jsonl/{prompt.strip()}", rejected)


def _from_messages(fields: Fields) -> Example:
    messages, tools = fields.get("messages"), fields.row.get("tools")
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise fields.wrong("'messages' is not a list of objects")
    roles = [item.get("role") for item in messages]
    if roles[-1:] != ["assistant"]:
        raise fields.wrong(f"messages with the roles {roles}, the last not the assistant's")
    prompt, answer = turned(fields, messages, tools)
    text = prompt
    if isinstance(prompt, Conversation):
        text = "\n".join(message["content"] for message in prompt.messages)
    return Example(prompt, answer, f"jsonl/{text.strip()}")


def turned(fields: Fields, messages: list[Any], tools: Any) -> tuple[str, str]:
    """Prompt and answer of a whole chat. One turn of the user, and nothing else, is a plain prompt.

    Raises:
        DataError: it is no such chat.
    """
    try:
        prompt, answer = Conversation.of(messages[:-1], tools), answer_of(messages[-1])
    except PromptError as error:
        raise fields.wrong(error.got) from error
    alone = len(messages) == 2 and not tools
    return (str(prompt.messages[0]["content"]) if alone else prompt), answer


CHATS = Format("jsonl", LINE, lambda row: True, read_chats, NEW_TOKENS)
