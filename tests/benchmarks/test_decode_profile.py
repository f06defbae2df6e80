"""The profile of a decode step, on the tiny bundle."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks.decode_profile import by_operator, main


def test_every_operator_has_its_time(tiny_bundle_dir: Path) -> None:
    arguments = [str(tiny_bundle_dir), "--context", "16", "--steps", "3", "--threads", "1"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.output.splitlines()[-1])
    assert found["nodes"]["LinearAttention"] == found["nodes"]["GroupQueryAttention"] == 1
    assert found["providers"] == {"CPUExecutionProvider": sum(found["nodes"].values())}
    assert all(time >= 0 for time in found["operators"].values())
    assert 0 < sum(found["operators"].values()) < 1.5 * found["step"]


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path)])
    assert done.exit_code == 2
    assert "is no bundle for ONNX Runtime" in done.output


def test_only_the_last_steps_count() -> None:
    events = [
        {"name": name, "ts": start, "dur": took, "args": {"op_name": "Add", "provider": "here"}}
        for name, start, took in [
            ("model_run", 0, 90), ("add_kernel_time", 5, 80),
            ("model_run", 100, 10), ("add_kernel_time", 102, 2), ("other_kernel_time", 105, 3),
            ("model_run", 200, 20), ("add_kernel_time", 201, 7),
        ]
    ]  # fmt: skip
    found = by_operator(events, 2)
    assert found == {
        "step": 0.015, "operators": {"Add": 0.006}, "nodes": {"Add": 1}, "providers": {"here": 1},
    }  # fmt: skip
