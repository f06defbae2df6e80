from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from benchmarks.table import main


def cell(way: str, task: str, marks: str, seed: int = 0, **more: Any) -> dict[str, Any]:
    right = marks.count("1")
    share = right / len(marks)
    known = {"correct": right, "n": len(marks), "accuracy": share, "marks": marks}
    return {"way": way, "task": task, "seed": seed, **known, **more}


def trained(way: str, task: str, marks: str, seed: int = 0) -> dict[str, Any]:
    train = {"steps": 400, "cpu_seconds": 200.0}
    return cell(way, task, marks, seed, train=train, bytes=182000, context_tokens=69)


def printed(tmp_path: Path, *cells: dict[str, Any]) -> list[str]:
    path = tmp_path / "results.json"
    named = {f"{c['task']}/{c['way']}/{c['seed']}": c for c in cells}
    path.write_text(json.dumps({"cells": named}))
    done = CliRunner().invoke(main, [str(path)])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_rows_have_accuracy_interval_and_costs(tmp_path: Path) -> None:
    lines = printed(
        tmp_path,
        cell("base", "tools", "0" * 10),
        trained("ART", "tools", "1" * 8 + "00", 0),
        trained("ART", "tools", "1" * 10, 1),
    )
    base = next(line for line in lines if line.startswith("| base"))
    assert "0.000 (0.000 to 0.278)" in base
    art = next(line for line in lines if line.startswith("| ART"))
    assert "0.900 (0.596 to 0.982) | not measured | 0, 1 | 182 kB | 69 | 400 | 200 |" in art


def test_pictures_are_paired_with_lora_on_the_same_examples(tmp_path: Path) -> None:
    lines = printed(
        tmp_path,
        trained("LoRA r=8", "tools", "1110000000"),
        trained("ART", "tools", "0011111111"),
        trained("ART", "tools", "1111111111", 1),
    )
    (paired,) = [line for line in lines if "alone" in line]
    assert "ART, tools, seed 0: +50.0 points against LoRA r=8" in paired
    assert "(7 right for it alone, 2 for LoRA r=8 alone, p = 0.18)" in paired
    assert "- tools: ART +60.0 points against LoRA r=8; goal: -2 or more" in lines


def test_shares_of_the_objectives(tmp_path: Path) -> None:
    lines = printed(
        tmp_path,
        cell("base", "math", "1" + "0" * 9),
        trained("ART", "math", "1" * 9 + "0"),
        trained("GRPO", "math", "1" * 7 + "000"),
        cell("long prompt", "math", "1" * 8 + "00"),
        trained("distilled", "math", "1" * 6 + "0000"),
    )
    assert "- math: GRPO has 0.750 of supervised training's gain; goal: 0.9" in lines
    assert "- math: distilled has 0.750 of its prompt's accuracy; goal: 0.95" in lines


def test_time_to_the_first_token(tmp_path: Path) -> None:
    seconds = {"median": 0.5, "low": 0.4, "high": 0.6, "n": 60}
    way = {
        "read_tokens": 81.25,
        "context_tokens": 442.25,
        "seconds": seconds,
        "cpu_seconds": seconds,
    }
    lines = printed(
        tmp_path, {"way": "first token", "task": "tools", "seed": 0, "ways": {"x": way}}
    )
    assert "| x | 442 | 81 | 500.0 (400.0 to 600.0) | 500.0 (400.0 to 600.0) |" in lines


def test_a_file_of_another_script_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"rows": []}')
    done = CliRunner().invoke(main, [str(path)])
    assert done.exit_code == 1
    assert "other.json has no cells" in done.output
