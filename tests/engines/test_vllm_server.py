"""The client: what it sends, and one clear error for every way in which a server can fail.

That a real vLLM answers as PyTorch does is tested in tests/art_export/test_verify_server.py.
"""

from __future__ import annotations

import base64
import io
import socket
import time
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from engines.chat import Chat
from engines.errors import OptionError, PictureError, PromptError, ServerError
from engines.picture import encode_picture, save_picture
from engines.vllm_server import ServerOptions, VllmServer, read_wire_picture
from tests.engines.fake_server import FakeServer

SIZE = 64
PROMPT = "Wake me up at 07:30 on Monday."


@pytest.fixture(scope="module")
def chat(tiny_model_dir: Path) -> Chat:
    return Chat.load(tiny_model_dir, SIZE)


@pytest.fixture
def png() -> bytes:
    rng = np.random.default_rng(0)
    return encode_picture(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), None)


def _reply(chat: Chat, body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What vLLM 0.32 answers, with the prompt itself as the answer's text."""
    *pictures, text = body["messages"][0]["content"]
    prompt = text["text"]
    ids = chat.full_ids(prompt)
    if pictures:
        ids = [*chat.prefix_ids(), *chat.tail_ids(prompt)]
    answer = {
        "choices": [
            {
                "message": {"content": prompt},
                "finish_reason": "stop",
                "token_ids": [7, 8, chat.eos_ids[0]],
                "logprobs": {"content": [{"logprob": -0.5}] * 3} if body["logprobs"] else None,
            }
        ],
        "usage": {"prompt_tokens": len(ids)},
        "prompt_token_ids": ids,
    }
    return answer | changes


def test_the_message_holds_the_picture_first_and_bit_for_bit(chat: Chat, png: bytes) -> None:
    with FakeServer(lambda body: _reply(chat, body)) as fake:
        server = VllmServer(ServerOptions(fake.url + "/v1/"), chat)
        [answer] = server.generate([PROMPT], [png], 5)
    assert (answer.text, answer.token_ids, answer.finished) == (PROMPT, (7, 8), True)
    [body] = fake.requests
    picture, text = body["messages"][0]["content"]
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == png
    assert text == {"type": "text", "text": PROMPT}
    assert body["model"] == "served"
    assert body["temperature"] == 0
    assert body["repetition_penalty"] == 1
    assert body["max_completion_tokens"] == 5
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "mm_processor_kwargs" not in body


def test_parallel_requests_keep_their_order(chat: Chat, png: bytes) -> None:
    def slower_first(body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["messages"][0]["content"][-1]["text"]
        time.sleep(0.02 * (10 - int(prompt.split()[-1])))
        return _reply(chat, body)

    prompts = [f"Call {number}" for number in range(10)]
    pictures = [png if number % 2 else None for number in range(10)]
    with FakeServer(slower_first) as fake:
        server = VllmServer(ServerOptions(fake.url, parallel=4), chat)
        answers = server.generate(prompts, pictures, 5)
    assert [answer.text for answer in answers] == prompts
    arrived = [body["messages"][0]["content"][-1]["text"] for body in fake.requests]
    assert sorted(arrived) == prompts


def test_a_server_that_tells_no_token_ids_is_still_counted(chat: Chat, png: bytes) -> None:
    def old(body: dict[str, Any]) -> dict[str, Any]:
        answer = _reply(chat, body)
        del answer["prompt_token_ids"], answer["choices"][0]["token_ids"]
        return answer

    with FakeServer(old) as fake:
        server = VllmServer(ServerOptions(fake.url), chat)
        [answer] = server.generate([PROMPT], [png], 5)
        assert (answer.text, answer.token_ids) == (PROMPT, ())
        [full] = server.ask([PROMPT], [png], 5)
        assert full.prompt_ids is None


def _resized(chat: Chat) -> Any:
    return lambda body: _reply(chat, body, usage={"prompt_tokens": 999})


def _other_template(chat: Chat) -> Any:
    return lambda body: _reply(
        chat, body, prompt_token_ids=_reply(chat, body)["prompt_token_ids"][::-1]
    )


def _refusing(status: int, message: str) -> Any:
    return lambda chat: lambda body: (status, {"error": {"message": message}})


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (_resized, "a server that saw 999 prompt tokens"),
        (_other_template, "a server that saw other prompt tokens"),
        (_refusing(404, "The model `x` does not exist."), "HTTP 404: The model `x` does not exist"),
        (_refusing(401, "Unauthorized"), "VLLM_API_KEY"),
        (lambda chat: lambda body: (500, b"<html>oh"), "HTTP 500: <html>oh"),
        (lambda chat: lambda body: b"{not json", "cannot be read"),
        (lambda chat: lambda body: {"choices": []}, "cannot be read"),
        (lambda chat: lambda body: _reply(chat, body, usage=None), "cannot be read"),
        (lambda chat: lambda body: [], "cannot be read"),
        (lambda chat: lambda body: time.sleep(1), "no answer within 0.2 s"),
    ],
    ids=["resized", "template", "404", "401", "500", "text", "empty", "no usage", "list", "slow"],
)
def test_one_clear_error(chat: Chat, png: bytes, reply: Any, text: str) -> None:
    with FakeServer(reply(chat)) as fake:
        server = VllmServer(ServerOptions(fake.url, timeout=0.2), chat)
        with pytest.raises(ServerError) as caught:
            server.generate([PROMPT] * 3, [png] * 3, 5)
    assert text in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_key_travels(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with FakeServer(lambda body: _reply(chat, body)) as fake:
        VllmServer(ServerOptions(fake.url), chat).generate([PROMPT], [None], 1)
    assert fake.keys == ["Bearer secret"]


def test_nobody_listens(chat: Chat, unused_port: int) -> None:
    with pytest.raises(ServerError, match=r"refused(.|\n)*docs/vllm\.md"):
        VllmServer(ServerOptions(f"http://127.0.0.1:{unused_port}"), chat)


def test_the_connection_breaks(chat: Chat) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        Thread(target=hang_up, daemon=True).start()
        with pytest.raises(ServerError, match="the connection broke"):
            VllmServer(ServerOptions(f"http://127.0.0.1:{listener.getsockname()[1]}"), chat)


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "", "http://"])
def test_what_is_no_url(chat: Chat, url: str) -> None:
    with pytest.raises(OptionError, match="--url"):
        VllmServer(ServerOptions(url), chat)


def test_the_served_model_is_chosen(chat: Chat) -> None:
    base = {"id": "base", "root": "/models/base", "max_model_len": 300, "parent": None}
    lora = {"id": "lora", "root": "/models/lora", "max_model_len": None, "parent": "base"}
    with FakeServer(lambda body: {}, {"data": [base, lora]}) as fake:
        model = VllmServer(ServerOptions(fake.url), chat).model
        assert (model.name, model.max_length) == ("base", 300)
        assert VllmServer(ServerOptions(fake.url, "lora"), chat).model.parent == "base"
        with pytest.raises(OptionError, match="did you mean 'base'"):
            VllmServer(ServerOptions(fake.url, "bsae"), chat)
    with (
        FakeServer(lambda body: {}, {"data": [base, base | {"id": "two"}]}) as fake,
        pytest.raises(OptionError, match="--served-model"),
    ):
        VllmServer(ServerOptions(fake.url), chat)


@pytest.mark.parametrize("models", [{}, {"data": [{}]}, {"data": None}, b"<html>", []])
def test_what_is_no_vllm_server(chat: Chat, models: Any) -> None:
    with (
        FakeServer(lambda body: {}, models) as fake,
        pytest.raises(ServerError, match="names a vLLM server"),
    ):
        VllmServer(ServerOptions(fake.url), chat)


@pytest.mark.parametrize("prompt", [" ", "word " * 400])
def test_prompts_are_checked_before_anything_is_sent(chat: Chat, prompt: str) -> None:
    with FakeServer(lambda body: {}) as fake:
        server = VllmServer(ServerOptions(fake.url), chat)
        with pytest.raises(PromptError):
            server.generate([PROMPT, prompt], [None, None], 5)
    assert not fake.requests


def test_a_file_travels_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "art.png"
    rng = np.random.default_rng(0)
    save_picture(path, rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), None)
    wire = read_wire_picture(path, SIZE)
    assert wire.png == path.read_bytes()
    with pytest.raises(PictureError):
        read_wire_picture(path, 2 * SIZE)


def test_exif_cannot_turn_the_picture_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(path, exif=exif)

    def as_vllm_reads(data: bytes) -> np.ndarray[Any, Any]:
        return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))

    wire = read_wire_picture(path, SIZE)
    assert not np.array_equal(as_vllm_reads(path.read_bytes()), wire.picture.pixels)
    assert np.array_equal(as_vllm_reads(wire.png), wire.picture.pixels)
