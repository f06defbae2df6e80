from __future__ import annotations

import json
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


def test_examples_are_written_and_two_ways_compared(
    command: Command, bundle: Path, jsonl: Path, tmp_path: Path
) -> None:
    asked = ("eval", bundle, "--task", jsonl, "--art", "none")
    path = tmp_path / "out" / "bare.jsonl"
    score = command(*asked, "--examples-out", path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert (len(rows), sum(row["correct"] for row in rows)) == (score["n"], score["correct"])
    assert list(rows[0]) == ["id", "prompt", "completion", "reference", "correct", "tokens"]
    assert len({row["id"] for row in rows}) == score["n"]
    assert {row["reference"] for row in rows} == {"Answer: 42"}
    (tmp_path / "words.txt").write_text("Say less. {prompt}")
    words = command(*asked, "--prompt", tmp_path / "words.txt", "--against", path)
    assert words["paired"]["n"] == score["n"]
    assert 0 < words["paired"]["p_value"] <= 1
    error = command(*asked, "--examples-out", path, code=2)["error"]
    assert "which exists" in error["got"]


def test_a_few_shot_prompt_is_the_chat_that_the_teacher_reads(
    command: Command, bundle: Path, tiny_model_dir: Path, jsonl: Path, tmp_path: Path
) -> None:
    shots = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "Answer: 4"}]
    (tmp_path / "shots.json").write_text(json.dumps(shots))
    asked = ("--task", jsonl, "--prompt", tmp_path / "shots.json")
    files = [tmp_path / "compiled.jsonl", tmp_path / "eager.jsonl"]
    command("eval", bundle, *asked, "--examples-out", files[0])
    eager = command("eval", tiny_model_dir, *asked, "--size", 64, "--examples-out", files[1])
    assert files[0].read_text() == files[1].read_text()
    assert eager["prompt"] == str(tmp_path / "shots.json")


@pytest.mark.parametrize(
    "ways",
    [
        ("--lora", "a", "--soft-prompt", "b"),
        ("--art", "a.png", "--lora", "b"),
        ("--art", "a.png", "--prompt", "b"),
        ("--prompt", "a", "--soft-prompt", "b"),
    ],
)
def test_two_ways_at_once_are_refused(
    command: Command, bundle: Path, ways: tuple[str, ...]
) -> None:
    error = command("eval", bundle, "--task", "tools", *ways, code=2)["error"]
    assert sorted(error["got"].split(" and ")) == sorted((ways[0], ways[2]))


def test_files_that_are_none(command: Command, bundle: Path, jsonl: Path, tmp_path: Path) -> None:
    asked = ("eval", bundle, "--task", jsonl)
    for option in ("--lora", "--soft-prompt"):
        assert "without adapter_config" in command(*asked, option, tmp_path, code=2)["error"]["got"]
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "correct": "yes"}')
    error = command(*asked, "--against", tmp_path / "bad.jsonl", code=2)["error"]
    assert "line 1" in error["got"]
