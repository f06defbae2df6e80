from __future__ import annotations

from pathlib import Path

import pytest

from art_export.cli.main import run
from engines.picture import load_picture
from tests.art_export.cli.conftest import Command


def test_train_writes_a_picture_and_says_where(
    command: Command, tiny_model_dir: Path, jsonl: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    asked = ("--task", jsonl, "-o", out, "--steps", 2, "--batch-size", 4, "--size", 64)
    found = command("train", tiny_model_dir, *asked)
    assert found["steps"] == 2
    picture = load_picture(out / "art.png", 64)
    assert found["picture_sha256"] == picture.sha256
    assert picture.provenance is not None
    assert picture.provenance.task == jsonl.name
    assert command("train", tiny_model_dir, *asked, code=2)["error"]["kind"] == "OutputExistsError"


def test_train_shows_its_controls(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, jsonl: Path, tmp_path: Path
) -> None:
    line = f"train {tiny_model_dir} --task {jsonl} -o {tmp_path}/run --steps 1 --size 64"
    assert run(line.split()) == 0
    captured = capsys.readouterr()
    assert "untrained: grey" in captured.out
    assert "train" in captured.err


def test_train_suggests_a_task(command: Command, tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    error = command("train", tiny_model_dir, "--task", "maths", "-o", out, code=2)["error"]
    assert "did you mean 'math'" in error["fix"]
    assert not out.exists()
