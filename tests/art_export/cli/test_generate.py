from __future__ import annotations

import json
from pathlib import Path

import pytest

from art_export.cli.main import run
from tests.art_export.cli.conftest import Command

PROMPT = "Wake me up at 07:30 on Monday."


def test_generate_uses_the_picture_in_use_unless_told(
    command: Command, bundle: Path, noise: Path
) -> None:
    assert command("generate", bundle, PROMPT)["art"] is None
    command("swap", bundle, noise)
    found = command("generate", bundle, PROMPT, "--max-new-tokens", 5)
    assert found["art"] == "noise"
    assert 0 < len(found["token_ids"]) <= 5
    assert command("generate", bundle, PROMPT, "--art", "none")["art"] is None


def test_generate_prints_the_answer_alone(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    assert run(["generate", str(bundle), PROMPT, "--max-new-tokens", "1"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) <= 2
    assert "stopped after 1 tokens" in captured.err


def test_generate_answers_a_whole_chat(
    command: Command, bundle: Path, noise: Path, tmp_path: Path
) -> None:
    command("swap", bundle, noise)
    chat, few = tmp_path / "chat.json", ("--max-new-tokens", 3)
    chat.write_text(json.dumps([{"role": "user", "content": PROMPT}]))
    plain = command("generate", bundle, PROMPT, *few)
    assert command("generate", bundle, "--messages", chat, *few)["text"] == plain["text"]
    assert command("generate", bundle, "--messages", tmp_path, code=2)["error"]["kind"] == (
        "PromptError"
    )
    for arguments in ((), (PROMPT, "--messages", chat)):
        found = command("generate", bundle, *arguments, code=2)["error"]
        assert found["kind"] == "OptionError"
        assert "--messages" in found["got"]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ((PROMPT, "--art", "nose"), "OptionError"),
        ((" ",), "PromptError"),
        (("word " * 2000,), "PromptError"),
    ],
    ids=["unknown art", "empty prompt", "long prompt"],
)
def test_generate_refuses(
    command: Command, bundle: Path, noise: Path, arguments: tuple[str, ...], kind: str
) -> None:
    command("swap", bundle, noise)
    assert command("generate", bundle, *arguments, code=2)["error"]["kind"] == kind


def test_generate_with_a_model_in_pytorch(
    command: Command, tiny_model_dir: Path, noise: Path
) -> None:
    asked = ("--size", 64, "--max-new-tokens", 3, "--art", noise)
    found = command("generate", tiny_model_dir, PROMPT, *asked, "--device", "cpu")
    assert (found["engine"], found["art"]) == ("torch", str(noise))
    assert found["notes"]


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (("--engine", "vllm"), "--url http"),
        (("--engine", "vllm", "--url", "http://localhost:1", "--threads", "2"), "no more"),
        (("--url", "http://localhost:1"), "add --engine vllm"),
        (("--served-model", "base"), "add --engine vllm"),
        (("--engine", "vlm"), "did you mean 'vllm'"),
        (("--engine", "openvino"), "leave --engine out"),
        (("--engine", "vllm", "--url", "localhost"), "give it with --url"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_generate_refuses_engines(
    command: Command, tiny_model_dir: Path, arguments: tuple[str, ...], fix: str
) -> None:
    found = command("generate", tiny_model_dir, PROMPT, *arguments, code=2)
    assert fix in found["error"]["fix"]


def test_generate_without_a_server(command: Command, tiny_model_dir: Path) -> None:
    asked = ("--engine", "vllm", "--url", "http://127.0.0.1:9")
    error = command("generate", tiny_model_dir, PROMPT, *asked, code=2)["error"]
    assert error["kind"] == "ServerError"
    assert "docs/vllm.md" in error["fix"]
