"""Work in a process of its own: engines in one process disturb each other's caches and threads."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from engines.environment import OtherWork
from engines.errors import CheckFailed

MODULE = "art_export.bench.jobs"
SHOWN = 3  # lines of a failed process's own words


def run_job(kind: str, **job: Any) -> dict[str, Any]:
    """Do one job of `art_export.bench.jobs` in a new process: what it found, in `wall` the seconds
    from starting the process to its answer, and in `busy` how many cores other processes kept busy
    meanwhile: times taken beside anything else say little.

    Raises:
        CheckFailed: the process failed; the message has its last words.
    """
    # The clock is the system's, the same for the child.
    began, others = time.monotonic(), OtherWork()
    asked = json.dumps({"kind": kind, "began": began, **job}, default=str)
    child = subprocess.Popen(
        [sys.executable, "-m", MODULE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        out, err = child.communicate(asked)
    except BaseException:
        child.kill()
        child.wait()
        raise
    lines = out.strip().splitlines()
    if child.returncode or not lines:
        told = "; ".join(err.strip().splitlines()[-SHOWN:]) or f"exit status {child.returncode}"
        raise CheckFailed(f"{kind} of {job.get('method', 'the benchmark')} failed: {told}")
    found: dict[str, Any] = json.loads(lines[-1])
    return {**found, "wall": found["answered"] - began, "busy": others.cores()}


def answer(found: Mapping[str, Any]) -> None:
    """Hand what a job found to the process that asked for it."""
    sys.stdout.write(json.dumps({**found, "answered": time.monotonic()}) + "\n")
    sys.stdout.flush()
