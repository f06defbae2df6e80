"""`optimum-cli export art`, found by optimum itself, as against `art-export build`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from optimum.commands.optimum_cli import main

from art_export.cli.build import command as build_command
from art_export.tolerances import BY_PRECISION, EXACT
from engines.bundle import BundleFolder


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "export", "art", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_it_builds_a_bundle(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_dir: Path,
    tiny_bundle_dir: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "bundle"
    assert _run(monkeypatch, "--model", tiny_model_dir, out, "--size", 64, "--json") == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(out)
    found, expected = BundleFolder.open(out), BundleFolder.open(tiny_bundle_dir)
    assert found.manifest.files == expected.manifest.files


def test_help_has_every_option_of_build(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    options = [option for option in build_command.params if isinstance(option, click.Option)]
    names = {option.opts[-1] for option in options} - {"--out"} | {"--model", "output"}
    assert not {name for name in names if name not in text}
    assert "Compile the untouched MODEL" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "onnx"], "did you mean 'onnxruntime'"),
        (["--size", "many"], "is not a valid integer"),
        (["--size", "7"], "multiple of 32"),
        (["--no-such-option"], "unrecognized arguments"),
    ],
)
def test_bad_input_ends_with_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_dir: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    out = tmp_path / "bundle"
    assert _run(monkeypatch, "--model", tiny_model_dir, out, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_failed_check_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(BY_PRECISION, "fp32", replace(EXACT, logits=0.0))
    out = tmp_path / "bundle"
    assert _run(monkeypatch, "-m", tiny_model_dir, out, "--size", 64) == 1
    assert not out.exists()


def test_the_installed_command_line_knows_it(tmp_path: Path) -> None:
    """In a folder from which this project's sources are not importable."""
    script = Path(sys.executable).with_name("optimum-cli")
    done = subprocess.run(
        [script, "export", "art", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--model" in done.stdout
