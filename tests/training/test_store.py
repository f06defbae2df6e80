from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from engines.errors import DataError, DiskFullError, OptionError, OutputExistsError
from training.store import RunFolder

STATE: dict[str, Any] = {"at": {"step": 2}, "learner": {}}


def test_an_existing_folder_is_refused_and_told_whether_it_can_be_resumed(tmp_path: Path) -> None:
    RunFolder.check(tmp_path / "new", resume=False)
    assert not (tmp_path / "new").exists()
    with pytest.raises(OutputExistsError, match="choose another"):
        RunFolder.check(tmp_path, resume=False)
    RunFolder(tmp_path).save(STATE, {})
    with pytest.raises(OutputExistsError, match="--resume"):
        RunFolder.check(tmp_path, resume=False)
    RunFolder.check(tmp_path, resume=True)


def test_only_an_unfinished_run_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no checkpoint"):
        RunFolder.check(tmp_path / "new", resume=True)
    run = RunFolder(tmp_path)
    run.save(STATE, {})
    run.finish({"score": 1.0})
    assert json.loads(run.record.read_text()) == {"score": 1.0}
    assert not run.checkpoint.exists()
    with pytest.raises(OutputExistsError, match="finished"):
        RunFolder.check(tmp_path, resume=True)


def test_a_checkpoint_comes_back_and_cuts_the_metrics(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.log(step=step)
    run.save(STATE, {"seed": 0, "out": "here", "resume": False})
    assert run.load({"seed": 0, "out": "there", "resume": True}) == STATE
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2]


def test_other_options_are_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.save(STATE, {"seed": 0})
    with pytest.raises(OptionError, match=r"(?s)seed = 1.*seed = 0"):
        run.load({"seed": 1})


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_told(tmp_path: Path, content: bytes) -> None:
    run = RunFolder(tmp_path)
    run.checkpoint.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        run.load({})


def test_a_cut_off_checkpoint_is_told(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.save(STATE, {})
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-50])
    with pytest.raises(DataError, match="cannot be read"):
        run.load({})


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskFullError, match="--resume"):
        RunFolder(tmp_path).log(step=1)
