"""How far a long command is, on stderr, so that stdout stays the result."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

REDRAW_SECONDS = 0.1
WIDEST_BAR = 30


class StageDisplay:
    """A `progress(stage, done, total)` callable that shows the stages as they come.

    On a terminal each stage has a bar, redrawn at most ten times a second. Elsewhere, and with
    --json, a stage is one line with the seconds since the start, said when it first begins.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._bars = self._stream.isatty() and not as_json
        self._clock = clock
        self._began = clock()
        self._stage: str | None = None
        self._stage_began = self._drawn_at = self._began
        self._last = (0, 0)
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars and self._stage is not None:
            self._draw()
            self._stream.write("\n")
        self._stage = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._begin(stage)
        self._last = (done, total)
        if self._bars and self._is_due(done, total):
            self._draw()

    def _begin(self, stage: str) -> None:
        now = self._clock()
        if self._bars and self._stage is not None:
            self._draw()
            self._stream.write("\n")
        if not self._bars and stage not in self._said:
            self._stream.write(f"[{now - self._began:6.1f} s] {stage}\n")
            self._stream.flush()
        self._said.add(stage)
        self._stage, self._stage_began = stage, now
        self._drawn_at = now - REDRAW_SECONDS

    def _is_due(self, done: int, total: int) -> bool:
        return done == total or self._clock() - self._drawn_at >= REDRAW_SECONDS

    def _draw(self) -> None:
        done, total = self._last
        self._drawn_at = self._clock()
        spent = f"{self._drawn_at - self._stage_began:.1f} s"
        columns = shutil.get_terminal_size().columns
        count = f"{done}/{total}" if total > 1 else ""
        room = columns - 1 - len(f"{self._stage:<24} [] {count} {spent}")
        width = max(0, min(WIDEST_BAR, room))
        filled = min(width, round(width * done / total)) if total > 0 else 0
        bar = "#" * filled + "-" * (width - filled)
        line = f"{self._stage:<24} [{bar}] {count} {spent}"
        # \x1b[K clears what a longer line left behind.
        self._stream.write(f"\r{line[: columns - 1]}\x1b[K")
        self._stream.flush()
