"""The record of a measurement names what it was taken on."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from engines import environment as module
from engines.environment import OtherWork, cpu, environment, versions


def test_versions_are_those_installed() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert "a-package-that-is-not-there" not in found


def test_environment_is_json_and_complete() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"] and int(found["cores"]) >= 1 and int(found["memory_gib"]) >= 1


def test_a_cpu_is_told_from_another_that_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"model name": "AMD EPYC", "cpu family": "25", "model": "1", "flags": "sse avx2"}
    more = one | {"flags": "avx2 sse avx512f avx512_vnni avx512_bf16"}
    found = []
    for info in (one, more, more | {"flags": " ".join(reversed(more["flags"].split()))}, {}):
        monkeypatch.setattr(module, "_cpuinfo", lambda info=info: info)
        found.append(cpu())
        assert json.loads(json.dumps(found[-1])) == found[-1]
    assert found[0]["name"] == found[1]["name"] == "AMD EPYC"
    assert found[0]["flags"] != found[1]["flags"] == found[2]["flags"]
    kinds = ("avx2", "avx512", "vnni", "bf16")
    assert [found[0][kind] for kind in kinds] == [True, False, False, False]
    assert [found[1][kind] for kind in kinds] == [True] * 4
    assert found[3]["flags"] is None and found[3]["name"]


def test_other_work_is_counted_in_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of user, nice and system, less those of this process, over the time that passed."""
    statistics, ticks = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(module, "STATISTICS", statistics)
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(f"{module.__name__}.time", SimpleNamespace(monotonic=lambda: next(clock)))
    own = iter([(1, 0, 0, 0, 0), (3, 1, 2, 0, 0)])
    monkeypatch.setattr("os.times", lambda: next(own))
    statistics.write_text(f"cpu {10 * ticks} 0 0 900 0\n")
    work = OtherWork()
    statistics.write_text(f"cpu {20 * ticks} {4 * ticks} {6 * ticks} 999 0\ncpu0 1 1 1 1\n")
    # 20 s of work, 5 s of it here: 15 s in 10 s.
    assert work.cores() == pytest.approx(1.5)


def test_a_system_without_statistics_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STATISTICS", tmp_path / "none")
    assert OtherWork().cores() == 0
