"""A LoRA loaded into a server for the time being; what a real one does with it, vLLM shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.adapter import WEIGHTS_NAME
from engines.chat import Chat
from engines.errors import CheckFailed, ServerError
from engines.vllm_lora import lora_on_server
from engines.vllm_server import ServerOptions
from tests.engines.fake_server import FakeServer

BASE = {"id": "served", "root": "served", "max_model_len": 512}


class LoraServer(FakeServer):
    """Serves a base model and whatever is loaded; `logprob` is what an adapter's tokens get."""

    def __init__(self, logprob: float = -2.0, refuse: bool = False) -> None:
        super().__init__(self.reply, {"data": [BASE]})
        self.logprob, self.refuse = logprob, refuse
        self.told: list[dict[str, Any]] = []

    def reply(self, body: dict[str, Any]) -> Any:
        if "lora_name" in body:
            return self.change(body)
        logprob = -1.0 if body["model"] == "served" else self.logprob
        choice = {
            "message": {"content": "42"},
            "finish_reason": "stop",
            "token_ids": [3],
            "logprobs": {"content": [{"logprob": logprob}]},
        }
        return {"choices": [choice], "usage": {"prompt_tokens": 1}}

    def change(self, body: dict[str, Any]) -> Any:
        if self.refuse:
            return 404, {"error": {"message": "Not Found"}}
        self.told.append(body)
        name = body["lora_name"]
        loaded = [{"id": name, "root": body.get("lora_path"), "parent": "served"}]
        self.models = {"data": [BASE, *(loaded if "lora_path" in body else [])]}
        return b"Success: LoRA adapter added successfully."


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    (tmp_path / WEIGHTS_NAME).write_bytes(b"weights")
    return tmp_path


@pytest.fixture(scope="module")
def chat(tiny_model_dir: Path) -> Chat:
    return Chat.load(tiny_model_dir, 64)


def test_it_is_loaded_asked_and_unloaded(adapter: Path, chat: Chat) -> None:
    with LoraServer() as server:
        assert isinstance(server, LoraServer)
        with lora_on_server(ServerOptions(server.url), chat, adapter) as adapted:
            name = adapted.model.name
            assert name.startswith("art-export-")
        load, unload = server.told
    assert load == {"lora_name": name, "lora_path": str(adapter.resolve())}
    assert unload == {"lora_name": name}


def test_one_without_effect_is_no_result_and_is_unloaded(adapter: Path, chat: Chat) -> None:
    with LoraServer(logprob=-1.0) as server:
        assert isinstance(server, LoraServer)
        with (
            pytest.raises(CheckFailed, match="no effect on the server"),
            lora_on_server(ServerOptions(server.url), chat, adapter),
        ):
            raise AssertionError("it was opened")
        assert len(server.told) == 2


def test_a_server_that_does_not_load_adapters(adapter: Path, chat: Chat) -> None:
    with (
        LoraServer(refuse=True) as server,
        pytest.raises(ServerError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
        lora_on_server(ServerOptions(server.url), chat, adapter),
    ):
        raise AssertionError("it was opened")
