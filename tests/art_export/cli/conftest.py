"""Running commands as a person would, on the tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from art_export.cli.main import run
from engines.picture import save_picture

Command = Callable[..., Any]
QUESTIONS = tuple(f"How many apples are {number} and {number}?" for number in range(20))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line with --json; its document if the exit code is the one expected."""

    def call(*arguments: object, code: int = 0) -> Any:
        capsys.readouterr()
        found = run([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert found == code, captured.err
        return json.loads(captured.out)

    return call


@pytest.fixture
def bundle(tiny_bundle_dir: Path, tmp_path: Path) -> Path:
    """A bundle of its own, without pictures."""
    return Path(shutil.copytree(tiny_bundle_dir, tmp_path / "bundle"))


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A picture that nobody trained."""
    path = tmp_path / "noise.png"
    rng = np.random.default_rng(0)
    save_picture(path, rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), None)
    return path


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    """Twenty examples in a file."""
    path = tmp_path / "sums.jsonl"
    lines = [json.dumps({"prompt": question, "answer": "Answer: 42"}) for question in QUESTIONS]
    path.write_text("\n".join(lines))
    return path
