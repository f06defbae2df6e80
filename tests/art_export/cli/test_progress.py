from __future__ import annotations

import io

import pytest

from art_export.cli.progress import StageDisplay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_each_stage_is_one_line() -> None:
    stream, clock = io.StringIO(), Clock()
    with StageDisplay(stream=stream, clock=clock) as progress:
        for done in range(100):
            progress("export", done, 100)
        clock.now = 2.5
        progress("check", 0, 1)
        progress("export", 100, 100)
    assert stream.getvalue() == "[   0.0 s] export\n[   2.5 s] check\n"


def test_json_has_no_bars_even_on_a_terminal() -> None:
    stream = Terminal()
    with StageDisplay(as_json=True, stream=stream, clock=Clock()) as progress:
        progress("export", 1, 2)
    assert "\r" not in stream.getvalue()
    assert "export" in stream.getvalue()


def test_a_bar_is_redrawn_ten_times_a_second_at_most() -> None:
    stream, clock = Terminal(), Clock()
    with StageDisplay(stream=stream, clock=clock) as progress:
        for done in range(1000):
            clock.now = done / 1000
            progress("train", done, 1000)
    assert 9 <= stream.getvalue().count("\r") <= 12
    assert stream.getvalue().endswith("\n")
    assert "999/1000" in stream.getvalue()


def test_a_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    with StageDisplay(stream=stream, clock=Clock()) as progress:
        progress("a stage with a very long name indeed", 1, 2)
    drawn = stream.getvalue().split("\r")[-1].split("\x1b")[0]
    assert len(drawn) < 30


def test_an_unknown_total_is_no_division_by_zero() -> None:
    with StageDisplay(stream=Terminal(), clock=Clock()) as progress:
        progress("load", 0, 0)


def test_an_error_ends_the_line() -> None:
    stream = Terminal()

    def fail() -> None:
        with StageDisplay(stream=stream, clock=Clock()) as progress:
            progress("train", 1, 2)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert stream.getvalue().endswith("\n")
