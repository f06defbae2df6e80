"""The script on the tiny model, its processes' work done in this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import training_cost
from benchmarks.training_cost import METHODS, main, targets


@pytest.mark.slow
def test_quick_measures_every_method(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_cost, "_child", lambda task: training_cost._work(dict(task)))
    (tmp_path / "model-tiny-qwen3_5").symlink_to(tiny_model_dir)
    options = ["--shapes", "tiny-qwen3_5", "--precisions", "fp32", "--quick", "-o", str(tmp_path)]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == json.loads((tmp_path / "training_cost.json").read_text())
    found = said["shapes"]["tiny-qwen3_5 fp32"]
    assert set(found["methods"]) == set(METHODS)
    for each in found["methods"].values():
        assert each["step_seconds"]["median"] > 0
        assert each["peak_bytes"] >= each["bytes_before"] > 0
    art, lora = (found["methods"][name] for name in METHODS[:2])
    # Padding is work that nobody needs.
    assert 0 < art["needed_operations"] <= art["run_operations"]
    assert lora["tokens"] > art["tokens"]
    assert len(said["targets"]) == 4


def test_targets_say_what_is_missed() -> None:
    ratios = {"step art / lora": 0.7, "peak art / lora": 0.9, "floor art / lora": 1.2}
    found = targets({"demo fp32": {"ratios": ratios}})
    assert [(each["value"], each["met"]) for each in found] == [(0.7, False), (0.9, True)]
