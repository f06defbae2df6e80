from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.chat import Chat
from engines.conversation import Conversation
from engines.errors import PromptError
from engines.prefix import PrefixState
from engines.runtime import Runtime
from training.encoding import after_picture, encode, long_answers, text_alone
from training.tasks import Example

EXAMPLE = Example("12 + 30", "42", "c")


@pytest.fixture(scope="module")
def chat(tiny_model_dir: Path) -> Chat:
    return Chat.load(tiny_model_dir, 64)


def test_rows_are_the_prompt_and_the_answer_with_its_end(chat: Chat) -> None:
    tail, full = after_picture(chat, EXAMPLE), text_alone(chat, EXAMPLE)
    for row in (tail, full):
        assert row.ids[-1] == chat.eos_ids[0]
        assert chat.decode(list(row.ids[row.start :])).strip() == "42"
    assert list(tail.ids[: tail.start]) == chat.tail_ids(EXAMPLE.prompt)
    assert list(full.ids[: full.start]) == chat.full_ids(EXAMPLE.prompt)
    assert len(full.ids) > len(tail.ids)


def test_training_and_inference_see_the_same_tokens_of_a_chat_with_tools(chat: Chat) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wake me."}]
    call = {"function": {"name": "set_alarm", "arguments": {"time": "07:30"}}}
    answer = Conversation.answer({"role": "assistant", "content": "", "tool_calls": [call]})
    example = Example(Conversation.of(asked, [{"name": "set_alarm"}]), answer, "c")
    engine: Any = None
    runtime, length = Runtime(engine, chat), len(chat.prefix_ids())
    for form, prefix in (
        (after_picture, PrefixState((), length, length, in_chat=True)),
        (text_alone, PrefixState((), 0, 0, in_chat=False)),
    ):
        row = form(chat, example)
        assert list(row.ids[: row.start]) == runtime.tail(example.prompt, prefix)
        assert '"time": "07:30"' in chat.decode(list(row.ids[row.start :]))


def test_an_example_that_does_not_fit_is_refused_not_cut(chat: Chat) -> None:
    room = len(after_picture(chat, EXAMPLE).ids)
    assert len(encode(chat, [EXAMPLE], after_picture, room)) == 1
    with pytest.raises(PromptError, match=r"(?s)12 \+ 30.*at most"):
        encode(chat, [EXAMPLE], after_picture, room - 1)


def test_answers_beyond_the_limit_of_generation_are_noted(chat: Chat) -> None:
    rows = [after_picture(chat, EXAMPLE), after_picture(chat, Example("q", "word " * 30, "d"))]
    assert long_answers(rows, 500) is None
    note = long_answers(rows, 20)
    assert note is not None
    assert note.startswith("1 of 2 answers")
