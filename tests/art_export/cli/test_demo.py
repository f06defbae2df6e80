from __future__ import annotations

import json
from pathlib import Path

import pytest

from art_export.cli.demo import describe, first_free
from art_export.cli.demo_run import DemoOptions, run_demo
from engines.errors import OutputExistsError
from engines.picture import load_picture


def silent(stage: str, done: int, total: int) -> None:
    pass


def test_demo_runs_every_step(tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    stages: dict[str, None] = {}
    options = DemoOptions(out, str(tiny_model_dir), "tools", steps=2, size=64, count=4, prompts=2)
    report = run_demo(options, lambda stage, done, total: stages.update({stage: None}))
    names = [way.name for way in report.ways]
    assert names == [
        "no picture",
        "ART",
        "untrained picture: noise",
        "untrained picture: grey",
        "LoRA r=8, merged",
    ]
    assert report.verified.passed
    assert report.aba_equal
    assert {way.score.n for way in report.ways} == {4}
    assert "train the picture" in stages and "rebuild for LoRA" in stages
    saved = json.loads((out / "report.json").read_text())
    assert saved["verified"]["passed"] is True
    assert [swap["name"] for swap in saved["swaps"]] == ["trained", "noise", "grey", "trained"]
    for name in ("art", "noise", "grey"):
        assert load_picture(out / f"{name}.png").size == 64
    text = describe(report)
    assert "bit for bit" in text
    assert "LoRA r=8, merged" in text


def test_demo_keeps_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError):
        run_demo(DemoOptions(tmp_path), silent)


def test_demo_finds_a_free_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert first_free("demo-out") == Path("demo-out")
    Path("demo-out").mkdir()
    Path("demo-out-2").touch()
    assert first_free("demo-out") == Path("demo-out-3")
