"""A real vLLM server answers as PyTorch does; what does not is named."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from art_export.cli.main import run
from art_export.cli.verify import task_sample
from art_export.subject import Base, find_base
from art_export.verify_server import ServerReport, ServerVerifyOptions, verify_server
from engines.chat import Chat
from engines.errors import OptionError, ServerError
from engines.model import DEMO, DEMO_FOLDER
from engines.picture import Picture, encode_picture, load_picture
from engines.vllm_server import ServerOptions, VllmServer, WirePicture
from tests.engines.fake_server import FakeServer

ROOT = Path(__file__).parent.parent.parent
ART = ROOT / "docs" / "art-tools.png"
PROMPT = "Wake me up at 07:30 on Monday."
ANSWER = '{"name": "set_alarm", "arguments": {"time": "07:30", "day": "Monday"}}'
VARIABLE = "ART_EXPORT_VLLM"
START_LIMIT = 300.0
"""Seconds for a server to come up."""


def _failed(report: ServerReport) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


# -- a real server --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM with the shipped model, as docs/vllm.md starts it."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(
            f"{VARIABLE} names no Python of an environment with vLLM; make one with "
            "scripts/vllm_cpu.py install ENV"
        )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    script = [sys.executable, str(ROOT / "scripts" / "vllm_cpu.py"), "serve"]
    flags = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "base"]
    # Compiling the graph takes two minutes on two cores and changes nothing here.
    flags += ["--enforce-eager", "--max-model-len", "2048"]
    # Lets a test ask for a smaller picture, which no request of this project does.
    flags += ["--trust-request-mm-kwargs"]
    command = [*script, str(Path(python).parent.parent), str(DEMO_FOLDER), *flags]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            # The session: its workers too, whatever state they are in.
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit and process.poll() is None:
        try:
            with urlopen(f"{url}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(1)
    pytest.fail(f"vLLM did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.mark.slow
def test_greedy_tokens_and_accuracy_equal_pytorchs(url: str) -> None:
    base = find_base(DEMO, str(ART))
    options = ServerVerifyOptions(
        ServerOptions(url), base, prompts=36, tasks=(task_sample("tools", 40),)
    )
    report = verify_server(options)
    assert report.passed, [check for check in report.checks if not check.passed]
    assert (report.served, report.dtype) == ("base", "bf16")
    checks = {check.name: check.detail for check in report.checks}
    assert checks["prompt tokens"].startswith("36/36 chats equal")
    for picture in ("the picture", "another picture", "no picture"):
        assert f"greedy tokens, {picture}" in checks
    assert "server 0/40" not in checks["accuracy, tools"]


@pytest.mark.slow
def test_faults_are_named(url: str, tmp_path: Path) -> None:
    base, server = find_base(DEMO, str(ART)), ServerOptions(url)
    assert base.picture is not None
    pixels = base.picture.picture.pixels
    mirrored = WirePicture(base.picture.picture, encode_picture(pixels[:, ::-1], None))
    report = verify_server(ServerVerifyOptions(server, replace(base, picture=mirrored), prompts=6))
    assert _failed(report) == ["greedy tokens, the picture", "log-probabilities, the picture"]

    other = _with_other_weights(DEMO_FOLDER, tmp_path / "other")
    report = verify_server(ServerVerifyOptions(server, find_base(str(other)), prompts=6))
    assert _failed(report) == ["base model"]
    assert "another base model" in report.checks[-1].detail


@pytest.mark.slow
def test_a_resized_picture_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import engines.vllm_server as client

    build = client.chat_request

    def resizing(*arguments: Any) -> dict[str, Any]:
        smaller = {"shortest_edge": 64 * 64, "longest_edge": 128 * 128}
        return build(*arguments) | {"mm_processor_kwargs": {"size": smaller}}

    server = VllmServer(ServerOptions(url), Chat.load(DEMO_FOLDER))
    assert server.generate([PROMPT], [ART.read_bytes()], 64)[0].text == ANSWER
    monkeypatch.setattr(client, "chat_request", resizing)
    with pytest.raises(ServerError, match="a server that saw"):
        server.generate([PROMPT], [ART.read_bytes()], 64)


@pytest.mark.slow
def test_a_plain_client_needs_no_art_export(url: str) -> None:
    """The message of docs/vllm.md, as any OpenAI client sends it."""
    picture = base64.b64encode(ART.read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}
    body = {
        "model": "base",
        "messages": [{"role": "user", "content": [image, {"type": "text", "text": PROMPT}]}],
        "temperature": 0,
        "max_tokens": 128,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)) as got:
        assert json.loads(got.read())["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.slow
def test_the_commands_reach_the_server(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    on_server = ["--engine", "vllm", "--url", url, "--art", str(ART), "--json"]
    assert run(["generate", DEMO, PROMPT, *on_server]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["text"], answer["engine"]) == (ANSWER, "vllm")
    assert run(["eval", DEMO, "--task", "tools", "-n", "20", *on_server]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["engine"] == "vllm"
    assert score["accuracy"] >= 0.9
    verify = ["verify", DEMO, "--prompts", "6", "-n", "10", *on_server]
    assert run(verify) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    # The picture's own task, from its provenance.
    assert report["checks"][-1]["name"] == "accuracy, tools"


# -- failures, without vLLM -----------------------------------------------------------------------


def _with_other_weights(folder: Path, to: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] *= 1.25
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def _card(**changes: Any) -> dict[str, Any]:
    return {"data": [{"id": "tiny", "root": "/elsewhere", "max_model_len": 256} | changes]}


def _options(fake: FakeServer, base: Base, **changes: Any) -> ServerVerifyOptions:
    return ServerVerifyOptions(ServerOptions(fake.url, "tiny"), base, prompts=3, **changes)


def test_another_model_ends_the_checks(tiny_model_dir: Path, tmp_path: Path) -> None:
    base = find_base(str(tiny_model_dir), size=64)
    other = _with_other_weights(tiny_model_dir, tmp_path / "other")
    for card in (_card(root=str(other)), _card(parent="x")):
        with FakeServer(lambda body: {}, card) as fake:
            report = verify_server(_options(fake, base))
        assert _failed(report) == ["base model"]
        assert len(report.checks) == 2


def test_a_server_that_ignores_pictures_is_named(tiny_model_dir: Path) -> None:
    chat = Chat.load(tiny_model_dir, 64)

    def blind(body: dict[str, Any]) -> dict[str, Any]:
        ids = chat.full_ids(body["messages"][0]["content"][-1]["text"])
        choice = {
            "message": {"content": "x"},
            "finish_reason": "length",
            "token_ids": [9] * body["max_completion_tokens"],
            "logprobs": {"content": [{"logprob": -0.5}] * body["max_completion_tokens"]},
        }
        usage = {"prompt_tokens": len(ids)}
        return {"choices": [choice], "usage": usage, "prompt_token_ids": ids}

    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    wire = WirePicture(Picture(pixels), encode_picture(pixels, None))
    base = replace(find_base(str(tiny_model_dir), size=64), picture=wire, art="noise")
    with FakeServer(blind, _card()) as fake:
        failed = _failed(verify_server(_options(fake, base, dtype="fp32")))
        with pytest.raises(OptionError, match="dtype"):
            verify_server(_options(fake, base, dtype="fp31"))
    assert "prompt tokens" in failed
    assert "greedy tokens, the picture" in failed
    assert "pictures are seen" in failed


def test_the_picture_of_a_bundle_is_sent(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    from art_export.bundle import Bundle

    folder = Path(shutil.copytree(tiny_bundle_dir, tmp_path / "bundle"))
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with Bundle.load(folder) as bundle:
        bundle.swap(Picture(pixels), "noise")
        base = find_base(str(folder))
        assert base.weights == bundle.folder.manifest.weights_sha256
    assert (base.art, base.size) == ("noise", 64)
    assert base.picture is not None
    (tmp_path / "sent.png").write_bytes(base.picture.png)
    assert load_picture(tmp_path / "sent.png").sha256 == Picture(pixels).sha256
    assert find_base(str(folder), "none").picture is None
