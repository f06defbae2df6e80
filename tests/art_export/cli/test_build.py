from __future__ import annotations

from pathlib import Path

import pytest

from art_export.cli.main import run
from tests.art_export.cli.conftest import Command


def test_build_prints_sizes_stages_and_parity(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    assert run(["build", str(tiny_model_dir), "-o", str(out), "--size", "64"]) == 0
    text = capsys.readouterr().out
    for word in ("parity", "untouched", "export", "total"):
        assert word in text
    assert (out / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("option", "value", "fix"),
    [("--engine", "onnx", "did you mean 'onnxruntime'"), ("--precision", "fp23", "fp32")],
)
def test_build_suggests_names(
    command: Command, tiny_model_dir: Path, tmp_path: Path, option: str, value: str, fix: str
) -> None:
    out = tmp_path / "bundle"
    error = command("build", tiny_model_dir, "-o", out, option, value, code=2)["error"]
    assert fix in error["fix"]
    assert not out.exists()


def test_build_of_no_model(command: Command, tmp_path: Path) -> None:
    error = command("build", tmp_path / "nowhere", "-o", tmp_path / "bundle", code=2)["error"]
    assert error["kind"] == "ModelError"


def test_build_keeps_what_is_there(command: Command, tiny_model_dir: Path, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    error = command("build", tiny_model_dir, "-o", bundle, "--size", 64, code=2)["error"]
    assert error["kind"] == "OutputExistsError"
    assert (bundle / "manifest.json").read_bytes() == before
