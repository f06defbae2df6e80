"""A real server in a process of its own, asked over HTTP as clients do."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from art_export.bundle import Bundle
from engines.picture import Picture, encode_picture

SIZE = 64
NAMES = ("one", "two")


def _picture(seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    return Picture(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


@dataclass
class Served:
    """A running server, what it wrote, and its bundle."""

    url: str
    process: subprocess.Popen[str]
    log: Path
    bundle: Path

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "Call"}], "max_tokens": 8} | fields
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)

    def end(self, kind: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(kind)
        return self.process.wait(timeout=60)


@contextmanager
def serving(bundle: Path, log: Path, *options: str, **environment: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "art_export.cli.main", "serve", str(bundle), "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--threads", "1", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **environment},
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            ready = json.loads(line)
            assert ready["arts"] == sorted(NAMES)
            yield Served(ready["url"], process, log, bundle)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def bundle_path(tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(tiny_bundle_dir, tmp_path_factory.mktemp("served") / "bundle"))
    with Bundle.load(path) as loaded:
        for seed, name in enumerate(NAMES):
            loaded.swap(_picture(seed), name)
    return path


@pytest.fixture(scope="session")
def served(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that leave it as it was."""
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(bundle_path, log, "--allow-swap", "--max-batch", "4") as running:
        yield running


@pytest.fixture(scope="session")
def expected(bundle_path: Path) -> Callable[..., str]:
    """What the bundle itself answers."""
    bundle = Bundle.load(bundle_path)
    return lambda art, prompt, tokens: bundle.generate([prompt], art, tokens)[0].text


@pytest.fixture(scope="session")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def _base(served: Served) -> str:
    return str(json.loads((served.bundle / "manifest.json").read_text())["base_model"])


def test_health_and_models(served: Served, client: openai.OpenAI) -> None:
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}
    assert [model.id for model in client.models.list()] == [*NAMES, _base(served)]
    assert client.models.retrieve("one").id == "one"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("three")


def test_the_stock_client_gets_what_the_bundle_answers(
    served: Served, client: openai.OpenAI, expected: Callable[..., str]
) -> None:
    for model, art in (("one", "one"), ("two", "two"), (_base(served), None)):
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Call"}], max_tokens=8
        )
        assert answer.choices[0].message.content == expected(art, "Call", 8)
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert answer.model == model
        assert answer.usage is not None
        assert answer.usage.completion_tokens <= 8
        assert answer.usage.total_tokens > answer.usage.prompt_tokens > 0


def test_a_stream_is_the_same_answer(client: openai.OpenAI, expected: Callable[..., str]) -> None:
    stream = client.chat.completions.create(
        model="one",
        messages=[{"role": "user", "content": "Wake me up"}],
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == expected("one", "Wake me up", 20)
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1


def test_many_at_once_with_mixed_pictures(served: Served, expected: Callable[..., str]) -> None:
    asked = [((*NAMES, None)[n % 3], f"Call {n} " * (1 + n % 4), 3 + n % 9) for n in range(16)]

    def ask(question: tuple[str | None, str, int]) -> str:
        art, prompt, tokens = question
        messages = [{"role": "user", "content": prompt}]
        answer = served.chat(model=art or _base(served), messages=messages, max_tokens=tokens)
        return str(answer.json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, asked))
    assert answers == [expected(*question) for question in asked]


def test_without_a_model_the_picture_in_use_answers(
    served: Served, expected: Callable[..., str]
) -> None:
    answer = served.chat().json()
    assert answer["model"] == NAMES[-1]
    assert answer["choices"][0]["message"]["content"] == expected(NAMES[-1], "Call", 8)


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"model": "onee"}, 404, "did you mean 'one'"),
        # No path to a picture's folder, which are looked for by name.
        ({"model": "../arts/one"}, 404, "does not exist"),
        ({"model": "."}, 404, "does not exist"),
        ({"model": "one", "n": 3}, 400, "n:"),
        ({"model": "one", "max_tokens": 100000}, 400, "at most"),
        ({"model": "one", "max_tokens": 100000, "stream": True}, 400, "at most"),
        ({"model": "one", "messages": []}, 400, "messages"),
        ({"model": "one", "messages": [{"role": "user", "content": "<|im_end|>" * 9}]}, 200, ""),
        ({"model": "one", "messages": [{"role": "user", "content": "x" * 3_000_000}]}, 413, "body"),
    ],
)
def test_errors_have_openais_form(
    served: Served, fields: dict[str, Any], status: int, text: str
) -> None:
    answer = served.chat(**fields)
    assert answer.status_code == status
    if status != 200:
        assert text in answer.json()["error"]["message"]
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", b"{not json", 400),
        ("GET", "/v1/chat/completions", None, 405),
        ("GET", "/nowhere", None, 404),
        ("PUT", "/v1/arts/none", b"", 400),
        ("PUT", "/v1/arts/three", b"no picture", 400),
        ("DELETE", "/v1/arts/three", None, 404),
    ],
)
def test_requests_that_cannot_be_answered(
    served: Served, method: str, path: str, body: bytes | None, status: int
) -> None:
    answer = httpx.request(method, served.url + path, content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_picture_is_swapped_in_and_out(served: Served, bundle_path: Path, tmp_path: Path) -> None:
    png = encode_picture(_picture(7).pixels, None)
    put = httpx.put(f"{served.url}/v1/arts/new", content=png, timeout=60)
    assert put.status_code == 200, put.text
    assert put.json()["name"] == "new"
    assert put.json()["seconds"] > 0
    answer = served.chat(model="new").json()["choices"][0]["message"]["content"]
    with Bundle.load(bundle_path) as own:
        assert own.folder.active() == "new"
        assert answer == own.generate(["Call"], "new", 8)[0].text
        # By another process, under the server's eyes.
        own.swap(_picture(8), "new")
        changed = own.generate(["Call"], "new", 8)[0].text
        assert served.chat(model="new").json()["choices"][0]["message"]["content"] == changed
        own.folder.set_active(NAMES[-1])
    assert changed != answer
    assert httpx.delete(f"{served.url}/v1/arts/new").status_code == 200
    assert served.chat(model="new").status_code == 404


def test_a_client_that_leaves_frees_its_row(served: Served) -> None:
    body = json.dumps({"model": "one", "messages": [{"role": "user", "content": "x"}]}).encode()
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as leaving:
        leaving.sendall(head.encode() + body)
    for _ in range(200):
        if "finish=cancelled" in served.log.read_text():
            break
        time.sleep(0.05)
    assert "finish=cancelled" in served.log.read_text()


def test_metrics_and_one_line_a_request(served: Served) -> None:
    served.chat(model="one")
    text = httpx.get(f"{served.url}/metrics").text
    assert 'art_export_requests_total{route="/v1/chat/completions",status="200"}' in text
    httpx.get(f"{served.url}/a%0Ab")
    lines = served.log.read_text().splitlines()
    assert any("model=one prompt=" in line and " 200 " in line for line in lines)
    assert all(line.startswith("20") for line in lines), lines


@pytest.mark.parametrize(("grace", "code"), [("300", 0), ("0", 1)])
def test_sigterm(bundle_path: Path, tmp_path: Path, grace: str, code: int) -> None:
    """Answers under way end first, if they may."""
    options = ("--grace", grace, "--max-batch", "1")
    with (
        serving(bundle_path, tmp_path / "log", *options, ART_EXPORT_API_KEY="secret") as running,
        # One client: to make a new one takes longer than an answer.
        httpx.Client(base_url=running.url, limits=httpx.Limits(max_connections=None)) as client,
        ThreadPoolExecutor(64) as pool,
    ):
        assert running.chat().status_code == 401
        assert client.put("/v1/arts/x", headers=_KEY).status_code == 403
        waiting = [pool.submit(_long, client) for _ in range(64)]
        assert _pending_when_all_have_come(client, waiting) > 1
        assert running.end() == code, running.log.read_text()
        if code:
            assert "before every request was answered" in running.log.read_text()
        else:
            tokens = [each.result().json()["usage"]["completion_tokens"] for each in waiting]
            assert len(set(tokens)) == 1


def _pending_when_all_have_come(
    client: httpx.Client, waiting: Sequence[Future[httpx.Response]]
) -> float:
    """Requests that wait or are being answered, once none is on its way any more."""
    for _ in range(3000):
        text = client.get("/metrics").text
        pending = float(text.partition("\nart_export_pending ")[2].split()[0])
        if pending + sum(each.done() for each in waiting) >= len(waiting):
            return pending
        time.sleep(0.01)
    raise AssertionError("requests got lost")


_KEY = {"Authorization": "Bearer secret"}


def _long(client: httpx.Client) -> httpx.Response:
    """A long answer, asked for with the key."""
    messages = [{"role": "user", "content": "Call"}]
    body = {"model": "one", "messages": messages, "max_tokens": 900}
    return client.post("/v1/chat/completions", json=body, headers=_KEY, timeout=300)
