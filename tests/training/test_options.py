from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines.errors import OptionError
from training.options import TrainOptions, parse_epsilon, settle

OPTIONS = TrainOptions("demo", "tools", Path("run"))


@pytest.mark.parametrize(
    ("text", "units"),
    [("32/255", 32), ("1/255", 1), ("255/255", 255), ("1", 255), ("0.1", 25), (" 8/255 ", 8)],
)
def test_epsilon_in_levels(text: str, units: int) -> None:
    assert parse_epsilon(text) == units


@pytest.mark.parametrize("text", ["32", "0", "-1/255", "1/0", "x", "", "0.5/255", "256/255", "nan"])
def test_epsilon_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="32/255"):
        parse_epsilon(text)


def test_defaults_depend_on_the_parametrisation() -> None:
    free = settle(OPTIONS)
    assert (free.lr, free.steps) == (0.3, 400)
    ball = settle(replace(OPTIONS, init=Path("cat.png"), epsilon="32/255"))
    assert ball.lr == pytest.approx(2 / 255)
    assert ball.steps == 400
    own = settle(replace(OPTIONS, lr=0.1, steps=7))
    assert (own.lr, own.steps) == (0.1, 7)


def test_epsilon_needs_a_start() -> None:
    with pytest.raises(OptionError, match="without --init"):
        settle(replace(OPTIONS, epsilon="32/255"))


@pytest.mark.parametrize(
    "name",
    ["steps", "lr", "batch_size", "validate_every", "checkpoint_every", "examples"],
)
@pytest.mark.parametrize("value", [0, -1])
def test_counts_and_rates_are_positive(name: str, value: int) -> None:
    with pytest.raises(OptionError, match=f"{name} = {value}"):
        settle(replace(OPTIONS, **{name: value}))  # type: ignore[arg-type]


def test_rates_are_finite() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(OptionError, match="lr"):
            settle(replace(OPTIONS, lr=value))


def test_an_unknown_schedule_is_answered_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'cosine'"):
        settle(replace(OPTIONS, schedule="cosin"))
