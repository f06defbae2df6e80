"""How a training run is doing, on stderr: loss, score, rate and the time that is left."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from art_export.cli.output import percent
from art_export.cli.progress import StageDisplay

STAGE = "train"
BAR = 20


class TrainDisplay(StageDisplay):
    """As `StageDisplay`; also a reporter, which the training loop tells every metric.

    On a terminal the bar of the training stage says it all; elsewhere there is a line for each
    validation.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._loss: float | None = None
        self._score: float | None = None
        self._first: int | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == STAGE and self._first is None:
            self._first, self._trained_since = done, self._clock()
        super().__call__(stage, done, total)

    def log(self, values: Mapping[str, Any]) -> None:
        """A line of metrics."""
        self._loss = values.get("loss", self._loss)
        if "validation" in values:
            self._score = values["validation"]["exact"]
            if not self._bars and self._stage == STAGE:
                spent = self._clock() - self._began
                self._stream.write(f"[{spent:6.1f} s] {self._said_of(values['step'])}\n")
                self._stream.flush()

    def close(self) -> None:
        """Nothing is held."""

    def _draw(self) -> None:
        if self._stage != STAGE:
            super()._draw()
            return
        done, total = self._last
        self._drawn_at = self._clock()
        columns, said = shutil.get_terminal_size().columns, self._said_of(done)
        width = max(0, min(BAR, columns - 1 - len(f"[] {said}")))
        filled = round(width * done / max(1, total))
        line = f"[{'#' * filled}{'-' * (width - filled)}] {said}"
        self._stream.write(f"\r{line[: columns - 1]}\x1b[K")
        self._stream.flush()

    def _said_of(self, done: int) -> str:
        total = self._last[1]
        said = [f"step {done}/{total}"]
        if self._loss is not None:
            said.append(f"loss {self._loss:.4g}")
        if self._score is not None:
            said.append(f"score {percent(self._score)}")
        spent = self._clock() - self._trained_since
        steps = done - (self._first or 0)
        if steps > 0 and spent > 0:
            said.append(f"{steps / spent:.3g} steps/s")
            said.append(f"{_clock_time((total - done) * spent / steps)} left")
        return ", ".join(said)


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
