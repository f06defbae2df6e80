"""Examples as rows of tokens, with every length checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engines.errors import PromptError
from training.batches import Row
from training.tasks import Example

if TYPE_CHECKING:
    from engines.chat import Chat

Encode = Callable[["Chat", Example], Row]


def after_picture(chat: Chat, example: Example) -> Row:
    """The tokens that follow the picture: user text, turn, answer, end of turn."""
    ids = chat.tail_ids(example.prompt)
    return Row((*ids, *chat.answer_ids(example.answer)), len(ids))


def text_alone(chat: Chat, example: Example) -> Row:
    """The whole chat, without any picture."""
    ids = chat.full_ids(example.prompt)
    return Row((*ids, *chat.answer_ids(example.answer)), len(ids))


def encode(chat: Chat, examples: Sequence[Example], form: Encode, room: int) -> list[Row]:
    """Rows of at most `room` tokens.

    Raises:
        PromptError: an example is longer; nothing is cut off silently.
    """
    rows = [form(chat, example) for example in examples]
    for example, row in zip(examples, rows, strict=True):
        if len(row.ids) > room:
            raise PromptError(
                got=f"an example of {len(row.ids)} tokens: {example.prompt[:60]!r}...",
                expected=f"at most {room} tokens, the model's limit less header and picture",
                fix="shorten the prompt or the answer, or leave the example out",
            )
    return rows


def check_room(
    chat: Chat, asked: Sequence[Sequence[int]], prefix: int, max_new_tokens: int
) -> None:
    """PromptError if a prompt, after `prefix` tokens and with its answer, is too long."""
    longest = prefix + max(map(len, asked))
    if longest + max_new_tokens > chat.max_length:
        raise PromptError(
            got=f"a chat of {longest} tokens, and {max_new_tokens} for the answer",
            expected=f"at most {chat.max_length}, the model's limit",
            fix="shorten the longest prompt or leave it out, or generate fewer tokens",
        )


def long_answers(rows: Sequence[Row], max_new_tokens: int) -> str | None:
    """A note on answers that generation with the task's limit would cut off, or None."""
    lengths = [len(row.ids) - row.start for row in rows]
    long = sum(length > max_new_tokens for length in lengths)
    if not long:
        return None
    return (
        f"{long} of {len(rows)} answers are longer than the {max_new_tokens} tokens that are "
        f"generated for this task (the longest has {max(lengths)}): evaluation cuts them off"
    )
