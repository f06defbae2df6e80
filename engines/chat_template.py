"""What a model's own chat template writes, with the picture before everything that can differ.

The state after the picture is stored once and serves every request. So what a template would write
before the first user turn, the system message and the tools, follows the picture instead: the very
text that the template has for it opens the first user turn. All later turns are the template's.
Without a picture a conversation is written as the template writes it.

A template that knows no tools gets them in words, in a form of our own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engines.conversation import Conversation, Message
from engines.errors import ModelError, PromptError

MARK = "art-export"
"""Text whose place in what a template writes is looked for."""
BREAK = "\n\n"
"""Between what opens the first user turn and what the user says."""


@dataclass(frozen=True)
class Turns:
    """What a template is given: messages whose contents are lists of parts, and tools."""

    messages: list[Message]
    tools: list[Message] | None = None


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer, thinking off."""

    tokenizer: Any

    def render(self, turns: Turns, *, ask: bool = True) -> str:
        """The text of a chat; with `ask`, up to where the answer begins.

        Raises:
            PromptError: the template refuses such a chat.
        """
        from jinja2.exceptions import TemplateError

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns.messages,
                    tools=turns.tools,
                    add_generation_prompt=ask,
                    tokenize=False,
                    enable_thinking=False,
                )
            )
        except (TemplateError, TypeError) as error:
            raise PromptError(
                got=f"a chat that the model's chat template refuses: {error}",
                expected="roles in an order that the model was made for",
                fix="change the order of the messages",
            ) from error

    def turns(self, prompt: str, *, picture: bool) -> Turns:
        """The chat of a prompt or a `Conversation`, its first user turn opened by a picture.

        Raises:
            ModelError: the template leaves out what a conversation has.
        """
        image: list[Message] = [{"type": "image"}] if picture else []
        if not isinstance(prompt, Conversation):
            return Turns([{"role": "user", "content": [*image, _part(prompt)]}])
        messages, tools = self._known(prompt.messages, prompt.tools)
        if not picture:
            turns = Turns([_in_parts(message) for message in messages], tools or None)
            self._check(turns)
            return turns
        system = messages.pop(0) if messages[0]["role"] == "system" else None
        opening = self._opening(system, tools)
        first, *rest = [_in_parts(message) for message in messages]
        if opening:
            first["content"][0]["text"] = opening + BREAK + first["content"][0]["text"]
        first["content"] = [*image, *first["content"]]
        turns = Turns([first, *rest])
        self._check(turns)
        return turns

    def answer(self, message: Message) -> str:
        """What the template writes for an answer, from its first character to before its end.

        Raises:
            ModelError: the template leaves out the answer's calls.
        """
        (known,), _ = self._known([message], [])
        asked: Message = {"role": "user", "content": [_part("x")]}
        frame = self.render(Turns([asked, _said("assistant", MARK)]), ask=False)
        lead, _, trail = frame.partition(MARK)
        turns = Turns([asked, _in_parts(known)])
        self._check(turns, ask=False)
        return self.render(turns, ask=False).removeprefix(lead).removesuffix(trail)

    def _opening(self, system: Message | None, tools: Sequence[Message]) -> str:
        """The text that the template writes for the system message and the tools."""
        if system is None and not tools:
            return ""
        asked = _said("user", "x")
        before, found, after = self.render(Turns([_said("system", MARK), asked])).partition(MARK)
        messages = [asked] if system is None else [_in_parts(system), asked]
        whole = self.render(Turns(messages, list(tools) or None))
        if not found or not (whole.startswith(before) and whole.endswith(after)):
            raise _leaves_out("system")
        return whole.removeprefix(before).removesuffix(after).strip()

    def _known(
        self, messages: list[Message], tools: list[Message]
    ) -> tuple[list[Message], list[Message]]:
        """The same, with tools, calls and their results in words if the template knows none."""
        uses_tools = tools or any(m["role"] == "tool" or "tool_calls" in m for m in messages)
        return (
            in_words(messages, tools)
            if uses_tools and not self._knows_tools
            else (
                messages,
                tools,
            )
        )

    @cached_property
    def _knows_tools(self) -> bool:
        """Whether the template writes tools, calls and their results."""
        tool = {"name": f"{MARK}-tool", "description": "x", "parameters": {"type": "object"}}
        call = {"name": f"{MARK}-call", "arguments": {"x": f"{MARK}-value"}}
        calling = {"content": "", "tool_calls": [{"type": "function", "function": call}]}
        messages = [
            _said("user", "x"),
            _in_parts({"role": "assistant", **calling}),
            _said("tool", f"{MARK}-result"),
        ]
        try:
            written = self.render(Turns(messages, [{"type": "function", "function": tool}]))
        except PromptError:
            return False
        return all(f"{MARK}-{part}" in written for part in ("tool", "call", "value", "result"))

    def _check(self, turns: Turns, *, ask: bool = True) -> None:
        """ModelError if the template leaves out what somebody says."""
        written = self.render(turns, ask=ask)
        for message in turns.messages:
            texts = [part.get("text", "") for part in message["content"]]
            names = [call["function"]["name"] for call in message.get("tool_calls", ())]
            if not all(text.strip() in written for text in (*texts, *names)):
                raise _leaves_out(message["role"])


def in_words(
    messages: Sequence[Message], tools: Sequence[Message]
) -> tuple[list[Message], list[Message]]:
    """Messages of system, user and assistant alone, which say what tools there are, what was
    called, and what came back."""
    said: list[Message] = []
    for message in messages:
        text = message["content"]
        if message["role"] == "tool":
            text = f"<tool_response>\n{text}\n</tool_response>"
            if said[-1]["role"] == "user":
                said[-1]["content"] += f"\n{text}"
                continue
            message = {"role": "user"}
        calls = [_call_in_words(call["function"]) for call in message.get("tool_calls", ())]
        said.append({"role": message["role"], "content": "\n".join([text] * bool(text) + calls)})
    if tools:
        schemas = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        about = f"Functions that can be called:\n{schemas}\n\nA call is written so:\n" + _FORM
        if said[0]["role"] != "system":
            said.insert(0, {"role": "system", "content": about})
        else:
            said[0]["content"] += BREAK + about
    return said, []


_FORM = '<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>'


def _call_in_words(function: Message) -> str:
    return f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>"


def _part(text: str) -> Message:
    return {"type": "text", "text": text}


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": [_part(text)]}


def _in_parts(message: Message) -> Message:
    return {**message, "content": [_part(message["content"])]}


def _leaves_out(role: str) -> ModelError:
    return ModelError(
        got=f"a chat template that leaves out a message of the {role}",
        expected="one that writes every message",
        fix="put the words into the user's turn instead",
    )
