from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import training.reporters as reporters
from engines.errors import OptionError
from training.reporters import check_kinds, opened, scalars

LINE = {"step": 3, "validation": {"exact": 0.5, "loss": 1.5}, "best": True, "note": "x", "loss": 2}


def test_numbers_by_name() -> None:
    assert scalars(LINE) == {"validation/exact": 0.5, "validation/loss": 1.5, "loss": 2.0}


def test_tensorboard_writes_beside_the_run_once_there_is_something(tmp_path: Path) -> None:
    with opened(("tensorboard",), tmp_path / "run", {}) as (told,):
        assert not (tmp_path / "run").exists()
        told.log(LINE)
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"validation/exact" in file.read_bytes()


def test_mlflow_is_told_parameters_once_and_metrics_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    fake = ModuleType("mlflow")
    for name in ("start_run", "log_params", "log_metrics", "end_run"):
        setattr(fake, name, lambda *a, _name=name, **k: calls.append((_name, a, k)))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setattr(reporters, "find_spec", lambda name: True)
    check_kinds(("mlflow",))
    with opened(("mlflow",), tmp_path / "run", {"lr": 0.3, "size": None}) as (told,):
        told.log(LINE)
        told.log(LINE | {"step": 4})
    assert [name for name, _, _ in calls] == [
        "start_run", "log_params", "log_metrics", "log_metrics", "end_run",
    ]  # fmt: skip
    assert calls[1][1] == ({"lr": 0.3},)
    assert calls[3][2] == {"step": 4}


def test_an_unknown_place_or_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporters, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="pip install mlflow"):
        check_kinds(("mlflow",))
    with pytest.raises(OptionError, match="did you mean 'tensorboard'"):
        check_kinds(("tensorbord",))
