"""`art-export bench`: what it prints and refuses; what it measures is tested with the library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from art_export.cli.main import run
from tests.art_export.cli.conftest import Command


def test_the_last_line_is_what_was_written(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["bench", str(tiny_model_dir), "-o", str(out), "--quick", "--method", "vllm-art"]
    assert run(words) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[-1]) == json.loads((out / "bench.json").read_text())
    assert "vllm-art: not measured: no vLLM server was given with --url" in printed
    assert "cpu" in printed


def test_json_alone(command: Command, tiny_model_dir: Path, tmp_path: Path) -> None:
    found = command("bench", tiny_model_dir, "-o", tmp_path / "out", "--method", "vllm-lora")
    assert found["kind"] == "bench"
    assert found["methods"]["vllm-lora"]["status"] == "not measured"


def test_adapters_belong_to_tasks(command: Command, tiny_model_dir: Path, tmp_path: Path) -> None:
    words = ("bench", tiny_model_dir, "-o", tmp_path / "out", "--art", "a.png")
    error = command(*words, code=2)["error"]
    assert error["got"] == "1 times --art for 0 tasks"
    assert not (tmp_path / "out").exists()


def test_an_unknown_method(command: Command, tiny_model_dir: Path, tmp_path: Path) -> None:
    words = ("bench", tiny_model_dir, "-o", tmp_path / "out", "--method", "lora")
    assert "lora-merge" in command(*words, code=2)["error"]["expected"]
