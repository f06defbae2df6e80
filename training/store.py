"""A run's folder: metrics, checkpoint and record.

RUN/
  art.png or adapter/   the best so far, replaced in one step
  metrics.jsonl         one line a step and one a validation
  checkpoint.pt         only while the run is unfinished
  strip.png             the picture's development, written at the end
  tensorboard/          on request
  run.json              written last: a folder without it is an unfinished run
"""

from __future__ import annotations

import errno
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engines.errors import DataError, DiskFullError, OptionError, OutputExistsError
from engines.files import write_bytes, write_json
from training import processes

NOT_COMPARED = ("out", "resume", "log_to")
"""Options that may differ when a run is resumed."""


class RunFolder:
    """The folder of one run; made by `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint, self.record = path / "checkpoint.pt", path / "run.json"
        self.metrics = path / "metrics.jsonl"

    @classmethod
    def check(cls, path: Path, resume: bool) -> RunFolder:
        """Refuse a folder that cannot be used, before anything slow is done.

        Raises:
            OutputExistsError: it exists, and resuming was not asked for or it is finished.
            OptionError: there is nothing to resume.
        """
        run = cls(path)
        if resume and run.record.exists():
            raise OutputExistsError(
                got=f"--resume with {path}, whose run is finished",
                expected="an unfinished run",
                fix="use its results, or train into another folder",
            )
        if resume and not run.checkpoint.is_file():
            raise OptionError(
                got=f"--resume with {path}, which has no checkpoint",
                expected="the folder of an interrupted run",
                fix="leave --resume out to start from the beginning",
            )
        if not resume and path.exists():
            fix = "choose another folder, or remove this one"
            if run.checkpoint.is_file():
                fix = "add --resume to go on with it, or choose another folder"
            raise OutputExistsError(
                got=f"the output folder {path}, which exists",
                expected="a folder that does not exist yet",
                fix=fix,
            )
        return run

    def log(self, **values: Any) -> None:
        """Append one line to the metrics."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFullError(
                got=f"a full disk while writing {self.metrics}",
                expected="room for the run's metrics",
                fix="make room, then go on with --resume",
            ) from error

    def save(self, state: dict[str, Any], options: Mapping[str, Any]) -> None:
        """Write the checkpoint in one step."""
        buffer = io.BytesIO()
        torch.save({"state": state, "options": json.dumps(options)}, buffer)
        write_bytes(self.checkpoint, buffer.getvalue())

    def load(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The checkpoint's state, and the metrics cut back to its step.

        Raises:
            DataError: the checkpoint cannot be read.
            OptionError: the run was started with other options, weights or data.
        """
        try:
            saved = torch.load(self.checkpoint, weights_only=True)
            state: dict[str, Any] = saved["state"]
            before = json.loads(saved["options"])
        except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, ValueError) as error:
            raise DataError(
                got=f"{self.checkpoint}, which cannot be read",
                expected="a checkpoint of this version",
                fix="train again into another folder",
            ) from error
        self._compare(before, json.loads(json.dumps(options)))
        self._cut_metrics(state["at"]["step"])
        return state

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the record; the run is finished and its checkpoint of no more use."""
        write_json(self.record, dict(record))
        self.checkpoint.unlink(missing_ok=True)

    def _compare(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for key in sorted(before.keys() | now.keys()):
            if key not in NOT_COMPARED and before.get(key) != now.get(key):
                raise OptionError(
                    got=f"--resume with {key} = {now.get(key)}",
                    expected=f"{key} = {before.get(key)}, as the run was started",
                    fix="repeat the first command with --resume added",
                )

    def _cut_metrics(self, step: int) -> None:
        """Steps after the checkpoint will be run, and logged, again."""
        if self.metrics.is_file():
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_bytes(self.metrics, "".join(line + "\n" for line in kept).encode())


def _step_of(line: str) -> float:
    """The step that a line of metrics is about; a line cut short by a crash is after all."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class OthersFolder(RunFolder):
    """The folder as processes beside the main one have it: they write nothing."""

    def log(self, **values: Any) -> None:
        """Nothing; the main process logs."""

    def save(self, state: dict[str, Any], options: Mapping[str, Any]) -> None:
        """Nothing; the main process saves."""

    def finish(self, record: Mapping[str, Any]) -> None:
        """Nothing; the main process writes the record."""


def open_folder(path: Path, resume: bool) -> RunFolder:
    """The run's folder for this process; the main one checks it. Raises as `RunFolder.check`."""
    folder = processes.from_main(lambda: RunFolder.check(path, resume))
    return folder if processes.is_main() else OthersFolder(path)
