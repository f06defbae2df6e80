"""What is sent to /v1/completions, and how its answers are read."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch

from engines.errors import ServerError
from engines.vllm_completions import complete, ids_prompt, vectors_prompt
from engines.vllm_server import ServerOptions
from tests.engines.fake_server import FakeServer


def answer(body: dict[str, Any]) -> Any:
    text = str(body["prompt"]) if "prompt" in body else "vectors"
    choice = {"text": text, "token_ids": [1, 2], "finish_reason": "stop"}
    return {"choices": [choice]}


def test_ids_are_sent_as_they_are_and_answers_keep_their_order() -> None:
    rows = [ids_prompt([number, 5]) for number in range(9)]
    with FakeServer(answer) as server:
        found = complete(ServerOptions(server.url, parallel=4), "served", rows, 12)
        assert [one.text for one in found] == [f"[{number}, 5]" for number in range(9)]
        assert found[0].token_ids == (1, 2) and found[0].finished
        body = server.requests[0]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("served", 12, 0)
    assert body["repetition_penalty"] == 1.0


def test_vectors_come_back_from_torch_load() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    sent = base64.b64decode(vectors_prompt(vectors)["prompt_embeds"])
    np.testing.assert_array_equal(torch.load(io.BytesIO(sent), weights_only=True), vectors)


def test_a_server_without_the_option_is_quoted() -> None:
    text = "You must set `--enable-prompt-embeds` to input `prompt_embeds`."
    refusal = (400, {"error": {"message": text}})
    with FakeServer(lambda body: refusal) as server, pytest.raises(ServerError, match="--enable"):
        complete(ServerOptions(server.url), "served", [vectors_prompt(np.ones((2, 3), "f4"))], 4)


def test_an_answer_of_another_form() -> None:
    with FakeServer(lambda body: {"choices": []}) as server, pytest.raises(ServerError):
        complete(ServerOptions(server.url), "served", [ids_prompt([1])], 4)
