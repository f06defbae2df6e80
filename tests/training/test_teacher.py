from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.chat import Chat
from engines.errors import DataError, ModelError, OptionError
from training.data import load_files
from training.tasks import TASKS
from training.teacher import TeacherPrompt, load_teacher, shared_start

QUESTION = "Wake me up at 07:30 on Monday."


@pytest.fixture(scope="module")
def chat(tiny_model_dir: Path) -> Chat:
    return Chat.load(tiny_model_dir, 64)


def test_a_shipped_task_asks_for_its_form_in_words() -> None:
    (example,) = TASKS["tools"].examples("train", 1, hint=True)
    (bare,) = TASKS["tools"].examples("train", 1)
    prompt = load_teacher(TASKS["tools"], None)
    assert prompt.wording.replace("{prompt}", bare.prompt) == example.prompt


def test_a_file_of_chats_needs_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"{i}", "answer": "x"}) for i in range(5)))
    with pytest.raises(OptionError, match="--teacher-prompt"):
        load_teacher(load_files(path), None)


def test_a_text_is_a_system_prompt_or_goes_round_the_question(tmp_path: Path, chat: Chat) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Reply in JSON.\n")
    ids = load_teacher(TASKS["tools"], str(path)).ids(chat, QUESTION)
    said = chat.tokenizer.decode(ids)
    assert said.startswith("<|im_start|>system\nReply in JSON.<|im_end|>\n<|im_start|>user\n")
    assert said.endswith(chat.tokenizer.decode(chat.full_ids(QUESTION)))

    path.write_text("Be brief. {prompt} Reply in JSON.")
    ids = load_teacher(TASKS["tools"], str(path)).ids(chat, QUESTION)
    assert ids == chat.full_ids(f"Be brief. {QUESTION} Reply in JSON.")


def test_messages_come_before_the_question(tmp_path: Path, chat: Chat) -> None:
    path = tmp_path / "shots.json"
    shots = [("system", "Use tools."), ("user", "12 + 30"), ("assistant", "42")]
    path.write_text(json.dumps([{"role": r, "content": c} for r, c in shots]))
    said = chat.tokenizer.decode(load_teacher(TASKS["tools"], str(path)).ids(chat, QUESTION))
    assert said.index("Use tools.") < said.index("12 + 30") < said.index("42<|im_end|>")
    assert said.index("42<|im_end|>") < said.index(QUESTION)


def test_a_template_that_leaves_a_message_out_is_told(chat: Chat) -> None:
    prompt = TeacherPrompt((("system", "Use tools."),))
    template = chat.tokenizer.chat_template
    try:
        chat.tokenizer.chat_template = template.replace(
            "for message in messages", "for message in messages if message.role != 'system'"
        )
        with pytest.raises(ModelError, match="the system"):
            prompt.ids(chat, QUESTION)
    finally:
        chat.tokenizer.chat_template = template


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", ""), ("a.json", "{"), ("a.json", "[]"), ("a.json", "[1]"), ("a.txt", None)],
)
def test_an_unusable_file_is_told(tmp_path: Path, name: str, content: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=name):
        load_teacher(TASKS["tools"], str(tmp_path / name))


def test_the_start_that_all_rows_share() -> None:
    assert shared_start([[1, 2, 3, 4], [1, 2, 5]]) == 2
    assert shared_start([[1, 2], [1, 2, 5]]) == 1
    assert shared_start([[1, 2, 3]]) == 2
    assert shared_start([[1], [2]]) == 0
