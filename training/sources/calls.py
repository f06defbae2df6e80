"""Function calls in what a model writes: bare JSON, Hermes' tags, Qwen3.5's tags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL)
_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """A function's name and its arguments. In Qwen3.5's tags values are bare text: without
    `typed`, "5" stands for the number as well as for the text."""

    name: str
    arguments: Mapping[str, Any]
    typed: bool = True

    def has(self, name: str, value: Any) -> bool:
        """Whether the argument `name` is there with this value."""
        if name not in self.arguments:
            return False
        found = self.arguments[name]
        return same(found, value) or (not self.typed and same(untyped(found), value))


@dataclass(frozen=True)
class Answer:
    """Calls, and the text beside them."""

    calls: tuple[Call, ...]
    text: str


def read_answer(text: str) -> Answer:
    """The calls in an answer. What cannot be read as one stays in the text."""
    fenced = _FENCE.fullmatch(text.strip())
    bare = _from_json(fenced[1] if fenced else text)
    if bare is not None:
        return Answer(bare, "")
    calls: list[Call] = []
    beside: list[str] = []
    place = 0
    for block in _BLOCK.finditer(text):
        found = _from_json(block[1]) or _from_tags(block[1])
        if found:
            calls += found
            beside.append(text[place : block.start()])
            place = block.end()
    return Answer(tuple(calls), "".join((*beside, text[place:])).strip())


def same(found: Any, wanted: Any) -> bool:
    """Equality as JSON has it: true is not 1, and 1 is 1.0."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[k], wanted[k]) for k in found)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return bool(found == wanted)


def untyped(text: Any) -> Any:
    """The JSON value that a text stands for, or the text."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return text


def _from_json(text: str) -> tuple[Call, ...] | None:
    """The calls of a JSON object, or of a list of them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    items = value if isinstance(value, list) else [value]
    calls = tuple(call for item in items if (call := as_call(item)) is not None)
    return calls if items and len(calls) == len(items) else None


def as_call(value: Any) -> Call | None:
    """A call from {"name": ..., "arguments": ...}, or from OpenAI's form round it."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        arguments = untyped(arguments)
    return Call(value["name"], arguments) if isinstance(arguments, dict) else None


def _from_tags(text: str) -> tuple[Call, ...]:
    found = _FUNCTION.fullmatch(text)
    if found is None or _PARAMETER.sub("", found[2]).strip():
        return ()
    arguments = {match[1].strip(): match[2] for match in _PARAMETER.finditer(found[2])}
    return (Call(found[1].strip(), arguments, typed=False),)


def matched(found: Sequence[Call], wanted: Sequence[Call]) -> bool:
    """Whether these are the same calls, in any order."""
    left = list(found)
    for one in wanted:
        place = next((i for i, call in enumerate(left) if equal(call, one)), None)
        if place is None:
            return False
        del left[place]
    return not left


def equal(found: Call, wanted: Call) -> bool:
    """The same name and arguments."""
    return (
        found.name == wanted.name
        and found.arguments.keys() == wanted.arguments.keys()
        and all(found.has(key, value) for key, value in wanted.arguments.items())
    )
