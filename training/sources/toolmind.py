"""ToolMind: conversations with tools, the last turn of the assistant to be learnt.

Yang et al., arXiv 2511.15718. Rows that were cut from one conversation begin with the same words of
the user, and fall into one split. Thoughts between <think> tags are left out: pictures are trained
with thinking off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.sources.base import Fields, Format, Hub, Line, Reading
from training.sources.chats import turned
from training.sources.tool_answers import is_correct, reward, without_thoughts
from training.tasks.base import Example

LINE = (
    '{"conversations": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "", '
    '"tool_calls": [{"function": {"name": "f", "arguments": {...}}}]}], "tools": [...]}'
)
NEW_TOKENS = 512


def read_toolmind(lines: Sequence[Line]) -> Reading:
    """What follows the last turn of the assistant is left out."""
    return Reading(tuple(map(_example, lines)), is_correct, reward)


def _example(line: Line) -> Example:
    fields = Fields.of(line, LINE)
    messages = fields.get("conversations")
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise fields.wrong("'conversations' is not a list of objects")
    said = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    asked = [message for message in messages if message.get("role") == "user"]
    if not said or not asked:
        raise fields.wrong("'conversations' without a turn of the user and of the assistant")
    kept = [without_thoughts(message) for message in messages[: said[-1] + 1]]
    prompt, answer = turned(fields, kept, fields.row.get("tools"))
    return Example(prompt, answer, f"toolmind/{asked[0].get('content')}")


def _is_toolmind(row: Mapping[str, Any]) -> bool:
    return "conversations" in row


TOOLMIND = Format(
    "toolmind",
    LINE,
    _is_toolmind,
    read_toolmind,
    NEW_TOKENS,
    Hub(
        "Nanbeige/ToolMind",
        "8020ed1c03c367e4eb720ac3828ab4b0b95d8baf",
        ("open_datasets/ToolACE-query.jsonl",),
    ),
)
