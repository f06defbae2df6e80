"""The teacher of a distillation: the same frozen model, told in words what it has to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import DataError, OptionError
from training.tasks import Task

if TYPE_CHECKING:
    from engines.chat import Chat
    from training.data import Source

PLACE = "{prompt}"
"""Where the question goes in a teacher's prompt."""


@dataclass(frozen=True)
class TeacherPrompt:
    """What the teacher reads beside the question.

    messages: (role, text) that come before it. wording: the user's text, with PLACE in it.
    """

    messages: tuple[tuple[str, str], ...] = ()
    wording: str = PLACE

    @property
    def sha256(self) -> str:
        """Of all that it says."""
        return hashlib.sha256(json.dumps([self.messages, self.wording]).encode()).hexdigest()

    def ids(self, chat: Chat, question: str) -> list[int]:
        """The teacher's chat, up to where the answer begins.

        Raises:
            DataError: the model's chat template leaves a message out.
        """
        asked = self.wording.replace(PLACE, question)
        if not self.messages:
            return chat.full_ids(asked)
        said: list[dict[str, Any]] = [
            {"role": role, "content": text} for role, text in (*self.messages, ("user", asked))
        ]
        text = str(
            chat.tokenizer.apply_chat_template(
                said, add_generation_prompt=True, tokenize=False, enable_thinking=False
            )
        )
        for message in said:
            if message["content"].strip() not in text:
                raise DataError(
                    got=f"a chat template that leaves out a message of the {message['role']}",
                    expected="one that writes every message",
                    fix=f"put the instructions round {PLACE} in a text file instead",
                )
        return list(chat.tokenizer(text, add_special_tokens=False).input_ids)


def load_teacher(source: Source, path: str | None) -> TeacherPrompt:
    """The prompt in the file `path`, or the words that a shipped task has for its own form.

    A text with {prompt} in it is the user's turn; any other text is a system prompt; a .json file
    is a list of messages, few-shot examples for instance, that come before the question.

    Raises:
        OptionError: no file was given and the task has no words of its own.
        DataError: the file cannot be read or used.
    """
    if path is None:
        if not isinstance(source, Task):
            raise OptionError(
                got=f"the objective 'distill' for {source.name} without a teacher's prompt",
                expected="the prompt that the picture is to stand for",
                fix="add --teacher-prompt FILE",
            )
        return TeacherPrompt(wording=f"{PLACE} {source.hints[source.target][0]}")
    text = _read(Path(path))
    if path.endswith(".json"):
        return TeacherPrompt(_messages(text, path))
    if PLACE in text:
        return TeacherPrompt(wording=text.strip())
    return TeacherPrompt((("system", text.strip()),))


def shared_start(rows: Sequence[Sequence[int]]) -> int:
    """How many first tokens all rows share, at most all but the last of the shortest."""
    limit = min(len(row) for row in rows) - 1
    alike = (len(set(column)) == 1 for column in zip(*rows, strict=False))
    return min(limit, next((place for place, same in enumerate(alike) if not same), limit))


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, f"which cannot be read: {error}") from error
    if not text.strip():
        raise _unusable(path, "which is empty")
    return text


def _messages(text: str, path: str) -> tuple[tuple[str, str], ...]:
    try:
        found = [(str(item["role"]), str(item["content"])) for item in json.loads(text)]
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(Path(path), f"which is no list of messages: {error!r}") from error
    if not found:
        raise _unusable(Path(path), "which has no message")
    return tuple(found)


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        got=f"the teacher's prompt {path}, {why}",
        expected=f"a text, with {PLACE} where the question goes or else a system prompt, or a "
        '.json file like [{"role": "system", "content": "..."}]',
        fix="check the file",
    )
