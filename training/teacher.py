"""The teacher of a distillation: the same frozen model, told in words what it has to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.conversation import Conversation
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
        """The teacher's chat, up to where the answer begins. Of a `Conversation` the last turn of
        the user is worded, and its own system message follows the teacher's.

        Raises:
            PromptError: the messages and the question are no chat together.
            ModelError: the model's chat template leaves a message out.
        """
        if not isinstance(question, Conversation):
            asked = self._worded(question)
            if not self.messages:
                return chat.full_ids(asked)
            question = Conversation.of([{"role": "user", "content": asked}])
        else:
            question = question.reworded(self._worded)
        said = [{"role": role, "content": text} for role, text in self.messages]
        return chat.full_ids(question.after(said))

    def _worded(self, asked: str) -> str:
        return self.wording.replace(PLACE, asked)


def load_teacher(source: Source, path: str | None) -> TeacherPrompt:
    """The prompt in the file `path`, or the words that a shipped task has for its own form.

    A text with {prompt} in it is the user's turn; any other text is a system prompt; a .json file
    is a list of messages, few-shot examples for instance, that come before the question, or whose
    last is the user's turn with {prompt} in it.

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
        *before, (role, last) = _messages(text, path)
        if role == "user" and PLACE in last:
            return TeacherPrompt(tuple(before), last)
        return TeacherPrompt((*before, (role, last)))
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
