"""Rollouts over HTTP: a server in this process that answers with the tiny model."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.server_rollouts as module
from engines.errors import OptionError, ServerError
from engines.picture import decode_picture
from engines.sampling import SamplingOptions
from engines.vllm_server import ServerOptions
from training.options import TrainOptions
from training.picture import grey_start
from training.rollouts import EngineRollouts, open_runtime
from training.run import train
from training.server_rollouts import ServerRollouts
from training.setup import Setup, load_setup

SIZE = 64
LIMIT = 6
PROMPTS = ("Wake me up at 07:30 on Monday.", "12 + 30")
Change = Callable[[dict[str, Any]], None]


class Served:
    """An HTTP server that speaks as vLLM does; `change` may spoil its answers."""

    def __init__(self, rollouts: EngineRollouts) -> None:
        self.rollouts, self.lock = rollouts, threading.Lock()
        self.change: Change = lambda answer: None
        self.asked: list[dict[str, Any]] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply({"data": [{"id": "tiny", "max_model_len": 1024}]})

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                self.reply(served.answer(json.loads(self.rfile.read(length))))

            def reply(self, answer: object) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        *image, text = body["messages"][0]["content"]
        data = base64.b64decode(image[0]["image_url"]["url"].split(",")[1])
        pixels = decode_picture(data, "request").pixels
        with self.lock:
            self.asked.append(body)
            options = SamplingOptions(body["temperature"])
            ((drawn,),) = self.rollouts.draw(pixels, [text["text"]], options, [[(body["seed"],)]])
        chat = self.rollouts.runtime.chat
        answer = {
            "choices": [
                {
                    "message": {"content": drawn.text},
                    "finish_reason": "stop" if drawn.finished else "length",
                    "token_ids": list(drawn.token_ids),
                    "logprobs": {"content": [{"logprob": number} for number in drawn.logprobs]},
                }
            ],
            "usage": {"prompt_tokens": len(chat.prefix_ids()) + len(chat.tail_ids(text["text"]))},
        }
        self.change(answer)
        return answer


@pytest.fixture(scope="module")
def setup(tiny_model_dir: Path) -> Setup:
    return load_setup(TrainOptions(str(tiny_model_dir), "tools", Path("unused"), examples=4), SIZE)


@pytest.fixture
def served(setup: Setup) -> Iterator[Served]:
    server = Served(EngineRollouts(open_runtime(setup, None, None), LIMIT, 8))
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_answers_come_as_the_server_drew_them(served: Served, setup: Setup) -> None:
    rollouts = ServerRollouts(ServerOptions(served.url), setup.chat, LIMIT)
    pixels, options = grey_start(SIZE, 0), SamplingOptions()
    seeds = [[(3, row, one) for one in range(3)] for row in range(2)]
    found = rollouts.draw(pixels, PROMPTS, options, seeds)
    numbers = [[(module._number(seed),) for seed in row] for row in seeds]
    expected = served.rollouts.draw(pixels, PROMPTS, options, numbers)
    for one, two in zip(chain(*found), chain(*expected), strict=True):
        assert (one.token_ids, one.finished) == (two.token_ids, two.finished)
        assert np.allclose(one.logprobs, two.logprobs, atol=1e-4)
    assert len({one.token_ids for one in found[0]}) > 1
    assert (
        rollouts.greedy(pixels, PROMPTS)[1].text == served.rollouts.greedy(pixels, PROMPTS)[1].text
    )
    assert served.asked[-1]["temperature"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answer: answer["usage"].update(prompt_tokens=3), "saw 3 prompt tokens"),
        (lambda answer: answer["choices"][0].pop("token_ids"), "0 token ids"),
        (lambda answer: answer["choices"][0].pop("logprobs"), "0 log-probabilities"),
    ],
)
def test_a_server_that_sees_or_says_something_else_is_told(
    served: Served, setup: Setup, change: Change, message: str
) -> None:
    served.change = change
    rollouts = ServerRollouts(ServerOptions(served.url), setup.chat, LIMIT)
    with pytest.raises(ServerError, match=message):
        rollouts.greedy(grey_start(SIZE, 0), PROMPTS)


def test_a_picture_is_trained_on_a_servers_answers(
    served: Served, tiny_model_dir: Path, tmp_path: Path
) -> None:
    options = TrainOptions(
        model=str(tiny_model_dir),
        task="tools",
        out=tmp_path / "run",
        objective="grpo",
        size=SIZE,
        steps=2,
        batch_size=2,
        examples=6,
        validation_examples=2,
        controls=False,
        settings={"url": served.url, "group": 3, "max_new_tokens": LIMIT},
    )
    assert train(options).measured["rollout_engine"] == "vllm"
    for name, value in (("bundle", "x"), ("temperature", 0.7), ("engine", "torch")):
        wrong = replace(options, settings={**options.settings, name: value}, out=tmp_path / "no")
        with pytest.raises(OptionError, match="url with another"):
            train(wrong)
