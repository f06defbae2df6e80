from __future__ import annotations

import io

import pytest

from art_export.cli.train_display import TrainDisplay
from tests.art_export.cli.test_progress import Clock, Terminal


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def told(stream: io.StringIO) -> str:
    clock = Clock()
    with TrainDisplay(stream=stream, clock=clock) as display:
        display("train", 10, 40)
        for step in range(11, 31):
            clock.now += 0.5
            display.log({"step": step, "loss": 1.0 / step})
            display("train", step, 40)
        display.log({"step": 30, "validation": {"exact": 0.25, "loss": 1.0}})
        display("controls", 1, 2)
    return stream.getvalue()


def test_a_terminal_shows_loss_score_rate_and_time_left() -> None:
    shown = told(Terminal())
    said = "step 30/40, loss 0.03333, score 25.0 %, 2 steps/s, 0:05 left"
    assert f"[############----] {said}" in shown
    assert "controls" in shown


def test_elsewhere_there_is_a_line_for_every_validation() -> None:
    lines = told(io.StringIO()).splitlines()
    assert lines == [
        "[   0.0 s] train",
        "[  10.0 s] step 30/40, loss 0.03333, score 25.0 %, 2 steps/s, 0:05 left",
        "[  10.0 s] controls",
    ]
