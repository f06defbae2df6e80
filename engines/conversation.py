"""A chat of several turns, with tools: what stands for a prompt where one text is not enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.errors import PromptError

ROLES = ("system", "user", "assistant", "tool")
EXPECTED = (
    '[{"role": "system", "content": "..."}, {"role": "user", "content": "..."}]; the first after a '
    'system message is the user\'s; "assistant" messages may have \'tool_calls\', and "tool" '
    "messages answer them"
)

Message = dict[str, Any]


class Conversation(str):
    """Messages and tools, as JSON text {"messages": [...], "tools": [...]}.

    It is a str so that whatever counts, sorts, compares, hashes or writes down prompts takes it
    as it is; `Chat` alone knows it from a plain prompt, which is what the user says in one turn.
    Of one message of the assistant, it stands for an answer with tool calls.

    Make one with `of`, which checks it.
    """

    __slots__ = ()

    @classmethod
    def of(cls, messages: object, tools: object = None) -> Conversation:
        """From messages and tools in OpenAI's form.

        Raises:
            PromptError: see `fault`.
        """
        reason = fault(messages, tools)
        if reason is not None:
            raise PromptError(f"a conversation with {reason}", EXPECTED, "correct the conversation")
        return cls._made(messages, tools)

    @classmethod
    def answer(cls, message: Mapping[str, Any]) -> Conversation:
        """The assistant's message `message`, as an answer.

        Raises:
            PromptError: it is none.
        """
        reason = _message_fault(message)
        if reason is not None or message["role"] != "assistant":
            raise PromptError(
                got=f"an answer with {reason or 'the role ' + repr(message['role'])}",
                expected='{"role": "assistant", "content": "...", "tool_calls": [...]}',
                fix="correct the answer",
            )
        return cls._made([message], None)

    @classmethod
    def _made(cls, messages: Any, tools: Any) -> Conversation:
        value = {"messages": [_plain(message) for message in messages]}
        if tools:
            value["tools"] = [_wrapped(tool) for tool in tools]
        return cls(json.dumps(value, ensure_ascii=False))

    @property
    def messages(self) -> list[Message]:
        """Objects of role, content (text) and, with calls, tool_calls: [{"type": "function",
        "function": {"name": ..., "arguments": {...}}}]."""
        found: list[Message] = json.loads(self)["messages"]
        return found

    @property
    def tools(self) -> list[Message]:
        """Schemas {"type": "function", "function": {...}}."""
        found: list[Message] = json.loads(self).get("tools", [])
        return found

    def after(self, messages: Sequence[Message]) -> Conversation:
        """This conversation with `messages` before it; its system message joins theirs.

        Raises:
            PromptError: see `fault`.
        """
        own = self.messages
        if messages and messages[0]["role"] == own[0]["role"] == "system":
            joined = f"{messages[0]['content']}\n\n{own[0]['content']}"
            return Conversation.of(
                [{"role": "system", "content": joined}, *messages[1:], *own[1:]], self.tools
            )
        if own[0]["role"] == "system":
            return Conversation.of([own[0], *messages, *own[1:]], self.tools)
        return Conversation.of([*messages, *own], self.tools)

    def reworded(self, change: Callable[[str], str]) -> Conversation:
        """With the text of the user's last turn changed."""
        messages = self.messages
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        messages[last]["content"] = change(messages[last]["content"])
        return Conversation.of(messages, self.tools)


def load_conversation(path: Path) -> Conversation:
    """From a JSON file: a list of messages, or {"messages": [...], "tools": [...]}.

    Raises:
        PromptError: the file cannot be read or holds no conversation.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise PromptError(
            got=f"{path}, which cannot be read: {error}",
            expected="a JSON file with a list of messages",
            fix="check the path and the file",
        ) from error
    if isinstance(value, dict):
        return Conversation.of(value.get("messages"), value.get("tools"))
    return Conversation.of(value)


def fault(messages: object, tools: object = None) -> str | None:
    """What is wrong with a conversation that asks for an answer, or None."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return "messages that are no list with something in it"
    for message in messages:
        reason = _message_fault(message)
        if reason is not None:
            return reason
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        return "a system message that is not the first"
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or turns[0] != "user" or turns[-1] not in ("user", "tool"):
        return f"the roles {roles}: it has to begin with the user, and end with one to answer"
    return None if tools is None else _tools_fault(tools)


def text_of(content: object) -> str | None:
    """The text of a message's content: a text, or a list of parts of text; None of others."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    texts = [part.get("text") if isinstance(part, dict) else None for part in content]
    said = [text for text in texts if isinstance(text, str)]
    return "".join(said) if len(said) == len(texts) else None


def _message_fault(message: object) -> str | None:
    if not isinstance(message, Mapping):
        return f"a message that is {type(message).__name__}"
    role = message.get("role")
    if role not in ROLES:
        return f"a message of the role {role!r}"
    text = text_of(message.get("content"))
    if text is None:
        return f"a message of the {role} whose content is not text"
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or any(_call(call) is None for call in calls):
        return "tool_calls that are not a list of functions with name and arguments"
    if calls and role != "assistant":
        return f"tool_calls in a message of the {role}"
    if not text.strip() and not calls and role != "tool":
        return f"an empty message of the {role}"
    return None


def _tools_fault(tools: object) -> str | None:
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return "tools that are not a list of objects"
    if not all(isinstance(_wrapped(tool)["function"].get("name"), str) for tool in tools):
        return "a tool without a name"
    return None


def _plain(message: Mapping[str, Any]) -> Message:
    kept: Message = {"role": message["role"], "content": text_of(message.get("content"))}
    if message.get("tool_calls"):
        kept["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return kept


def _call(call: Any) -> Message | None:
    """A call in OpenAI's form, its arguments as an object; None if it is none."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _wrapped(tool: Message) -> Message:
    """A schema in OpenAI's form, with every key that a server would add, in its order."""
    inner = tool.get("function")
    found = inner if isinstance(inner, dict) else {k: v for k, v in tool.items() if k != "type"}
    filled = {"name": found.get("name"), "description": "", "parameters": {"type": "object"}}
    return {"type": "function", "function": {**filled, **found}}
