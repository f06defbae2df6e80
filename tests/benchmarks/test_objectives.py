from __future__ import annotations

import json
from pathlib import Path

from benchmarks.objectives import long_prompt
from engines.chat import Chat
from engines.model import resolve_model
from training.tasks import TASKS
from training.tasks.tools import TOOLS
from training.teacher import load_teacher


def test_the_long_prompt_is_one_that_a_teacher_reads(tmp_path: Path) -> None:
    task, path = TASKS["tools"], tmp_path / "prompt.json"
    path.write_text(json.dumps(long_prompt(task)))
    prompt = load_teacher(task, str(path))
    chat = Chat.load(resolve_model("demo").path)
    ids = prompt.ids(chat, "Call Ann at 10:00.")
    assert len(ids) > 400
    text = chat.decode(ids)
    assert all(f"{name}(" in text for name in TOOLS)
    assert text.count("Call Ann at 10:00.") == 3
