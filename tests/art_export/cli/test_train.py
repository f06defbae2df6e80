from __future__ import annotations

import json
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


def test_options_come_from_a_file_and_flags_win(
    command: Command, tiny_model_dir: Path, jsonl: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {tiny_model_dir}\ntask: {jsonl}\nsteps: 3\nbatch-size: 2\nsize: 64\n"
        "objective: distill\nrobust: [jpeg, noise]\ncontrols: false\n"
        "settings: {top: 5, answers: reference}\n"
    )
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Be brief.")
    asked = ("--config", config, "--teacher-prompt", prompt, "--steps", 1, "--set", "top=7")
    found = command("train", *asked, "-o", tmp_path / "run")
    assert found["steps"] == 1
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert (options["batch_size"], options["robust"]) == (2, ["jpeg", "noise"])
    assert options["settings"] == {
        "top": "7", "answers": "reference", "teacher_prompt": str(prompt),
    }  # fmt: skip
    assert set(found["measured"]) == {"teacher", "student", "exact_after"}

    # The record of that run is itself such a file, and gives the same picture.
    again = command("train", "--config", tmp_path / "run/run.json", "-o", tmp_path / "again")
    assert again["picture_sha256"] == found["picture_sha256"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stepz: 3", "did you mean 'steps'"),
        ("- 1", "it holds list"),
        ("a: [", "--config"),
        (None, "No such file"),
    ],
)
def test_an_unusable_file_of_options_is_told(
    command: Command, tmp_path: Path, content: str | None, message: str
) -> None:
    config = tmp_path / "run.yaml"
    if content is not None:
        config.write_text(content)
    found = command("train", "--config", config, "-o", tmp_path / "run", code=2)["error"]
    assert message in found["message"]


def test_a_setting_is_a_name_and_a_value(
    command: Command, tiny_model_dir: Path, tmp_path: Path
) -> None:
    line = ("train", tiny_model_dir, "--task", "tools", "-o", tmp_path / "run")
    assert "NAME=VALUE" in command(*line, "--set", "beta", code=2)["error"]["expected"]
    found = command(*line, "--objective", "grpo", "--set", "groop=3", code=2)["error"]
    assert "did you mean 'group'" in found["fix"]
