from __future__ import annotations

from pathlib import Path

import pytest

from art_export.cli.main import run
from tests.art_export.cli.conftest import Command


def test_eval_of_bundle_and_model_agree(
    command: Command, bundle: Path, tiny_model_dir: Path, noise: Path
) -> None:
    asked = ("--task", "tools", "-n", 3)
    compiled = command("eval", bundle, *asked, "--art", noise)
    eager = command("eval", tiny_model_dir, *asked, "--art", noise, "--size", 64)
    assert (compiled["engine"], eager["engine"]) == ("onnxruntime", "torch")
    assert compiled["correct"] == eager["correct"]
    assert compiled["n"] == 3
    assert compiled["art"] == str(noise)


def test_eval_takes_the_picture_in_use(command: Command, bundle: Path, noise: Path) -> None:
    command("swap", bundle, noise)
    asked = ("--task", "math", "-n", 2)
    assert command("eval", bundle, *asked)["art"] == "noise"
    assert command("eval", bundle, *asked, "--art", "none", "--hint")["art"] is None


def test_eval_prints_an_interval(
    capsys: pytest.CaptureFixture[str], bundle: Path, jsonl: Path
) -> None:
    assert run(["eval", str(bundle), "--task", str(jsonl), "--art", "none"]) == 0
    captured = capsys.readouterr()
    assert "(Wilson)" in captured.out
    assert "no more than" in captured.err


@pytest.mark.parametrize(
    ("target", "arguments", "text"),
    [
        ("bundle", ("--task", "tool"), "did you mean 'tools'"),
        ("bundle", ("--task", "tools", "--art", "noice"), "did you mean 'noise'"),
        ("model", ("--task", "tools", "--art", "noise"), "give the PNG's path"),
        ("bundle", ("--task", "jsonl", "--hint"), "leave --hint out"),
    ],
)
def test_eval_refuses(
    command: Command,
    bundle: Path,
    tiny_model_dir: Path,
    noise: Path,
    jsonl: Path,
    target: str,
    arguments: tuple[str, ...],
    text: str,
) -> None:
    command("swap", bundle, noise)
    folder = {"bundle": bundle, "model": tiny_model_dir}[target]
    given = [str(jsonl) if argument == "jsonl" else argument for argument in arguments]
    assert text in command("eval", folder, *given, code=2)["error"]["fix"]
