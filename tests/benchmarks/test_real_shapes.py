"""benchmarks/real_shapes.py on a tiny model, from weights to verify, and when a stage fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import real_shapes
from benchmarks.real_shapes import MARKERS, NAMES, Run, main
from tests.real_configs import real_config

TINY = "tiny-qwen3_vl"


def measured(out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and what was written and printed last."""
    done = CliRunner().invoke(main, [TINY, "-o", str(out), *more])
    written = json.loads((out / f"{TINY}.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == written
    return done.exit_code, written


@pytest.mark.slow
def test_a_tiny_model_goes_through_every_stage(tmp_path: Path) -> None:
    code, found = measured(tmp_path, "--new-tokens", "2", "--prompts", "1")
    stages = found["stages"]
    assert list(stages) == ["weights", "build", "serve", "verify"]
    assert code == 0, stages
    assert all(stage["peak_rss_bytes"] > 1e7 for stage in stages.values())
    assert all(stage["wall_seconds"] > 0 for stage in stages.values())
    assert stages["weights"]["bytes"] > 2 * stages["weights"]["parameters"]
    assert 0 <= stages["build"]["parity"] <= stages["build"]["tolerance"]
    assert set(stages["serve"]["seconds"]) == {"load", "swap", "first token", "generate"}
    assert stages["verify"]["passed"]
    # Models and bundles of gigabytes stay only if they are asked for.
    assert [path.name for path in tmp_path.iterdir()] == [f"{TINY}.json"]


def test_a_stage_that_fails_ends_the_run(tmp_path: Path) -> None:
    code, found = measured(tmp_path, "--engine", "no-such-engine", "--keep")
    assert code == 1
    assert list(found["stages"]) == ["weights", "build"]
    assert "no-such-engine" in found["stages"]["build"]["error"]
    assert (tmp_path / TINY / "model" / "config.json").is_file()


def test_a_stage_that_is_killed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr("benchmarks.real_shapes.sys.executable", str(killed))
    code, found = measured(tmp_path)
    assert code == 1
    assert found["stages"]["weights"]["error"] == "the stage's process ended with -9"


def test_names_are_of_shapes_and_of_tiny_models(tmp_path: Path) -> None:
    assert {"Qwen3.5-0.8B", TINY} <= set(NAMES)
    done = CliRunner().invoke(main, ["Qwen3.5-0.8C", "-o", str(tmp_path)])
    assert done.exit_code == 2
    assert "Qwen3.5-0.8B" in done.output
    assert not list(tmp_path.iterdir())


def test_a_real_shape_keeps_its_size_and_takes_the_small_tokenizers_markers() -> None:
    config, tokenizer, _ = real_shapes._shape("Qwen3.5-0.8B")
    text = config.get_text_config()
    assert text.vocab_size == real_config("Qwen3.5-0.8B").get_text_config().vocab_size
    assert len(tokenizer) < text.vocab_size
    for key, token in MARKERS.items():
        assert getattr(config, key) == tokenizer.convert_tokens_to_ids(token)
    assert text.eos_token_id == tokenizer.eos_token_id


def test_files_of_a_run_lie_in_a_folder_of_its_name() -> None:
    run = Run(TINY, Path("out"), "onnxruntime", "fp32", 2, 1)
    assert run.model == Path("out", TINY, "model")
    assert run.bundle == Path("out", TINY, "bundle")
