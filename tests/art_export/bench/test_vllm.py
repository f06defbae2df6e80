"""A server is asked as a client would ask it; what a real one does, only a real one shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from art_export.bench.settings import QUICK
from art_export.bench.vllm import VllmBench
from engines.chat import Chat
from engines.picture import save_picture
from tests.engines.fake_server import FakeServer

SIZE = 64


@pytest.fixture
def chat(tiny_bundle_dir: Path) -> Chat:
    return Chat.load(tiny_bundle_dir, SIZE)


def _reply(body: dict[str, Any]) -> Any:
    if "lora_name" in body:
        return b"Success: it was done in words, not in JSON"
    return {"choices": [{"message": {"content": body["model"]}}], "usage": {"prompt_tokens": 1}}


def test_loras_are_loaded_asked_and_unloaded(chat: Chat, tmp_path: Path) -> None:
    with FakeServer(_reply) as server:
        found = VllmBench(server.url, None, chat, QUICK).lora([tmp_path / "a", tmp_path / "b"])
    loads = [body for body in server.requests if "lora_path" in body]
    assert [body["lora_name"] for body in loads] == ["bench-0", "bench-1"]
    unloads = [body for body in server.requests if set(body) == {"lora_name"}]
    assert [body["lora_name"] for body in unloads] == ["bench-0", "bench-1"]
    assert [set(each) for each in found["deploys"]] == [{"load", "first token"}] * 2
    asked = {body["model"] for body in server.requests if "model" in body}
    assert asked == {"bench-0", "bench-1"}
    assert list(found["mixed"]) == [str(n) for n in QUICK.mixes]


def test_pictures_go_with_every_request(chat: Chat, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(2)]
    for level, path in enumerate(paths):
        save_picture(path, np.full((SIZE, SIZE, 3), level, np.uint8), None)
    with FakeServer(_reply) as server:
        found = VllmBench(server.url, None, chat, QUICK).art(paths)
    assert len(found["first"]) == QUICK.requests
    kinds = [part["type"] for body in server.requests for part in body["messages"][0]["content"]]
    assert kinds == ["image_url", "text"] * len(server.requests)
    assert all(body["min_tokens"] == body["max_completion_tokens"] for body in server.requests)


def test_answers_under_a_lora(chat: Chat, tmp_path: Path) -> None:
    with FakeServer(_reply) as server:
        bench = VllmBench(server.url, None, chat, QUICK)
        assert bench.answers(None, tmp_path, ["Hello.", "Bye."], 4) == ["bench-task"] * 2
