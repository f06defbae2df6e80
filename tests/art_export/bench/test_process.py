"""A job in a process of its own: what it found comes back, and what it said when it failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from art_export.bench.process import run_job
from engines.errors import CheckFailed


def test_a_job_comes_back_with_its_time(tiny_bundle_dir: Path) -> None:
    found = run_job("floors", bundle=str(tiny_bundle_dir), reads=1)
    assert found["state of a picture, bytes"] > 0
    assert found["wall"] > 0


def test_a_failed_job_says_what_was_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"floors of the benchmark failed: .*does not exist"):
        run_job("floors", bundle=str(tmp_path / "none"), reads=1)
