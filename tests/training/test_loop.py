from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from engines.errors import CheckFailed, OptionError
from tests.training.fakes import TRAIN, BigramLearner, loop_options, objective_of
from training.batches import Batch, Row
from training.interruption import Interrupted
from training.loop import Loop
from training.objectives.base import Loss
from training.objectives.sft import loss as sft
from training.objectives.supervised import LossFunction, Supervised
from training.policy import Policy
from training.store import RunFolder


def make_loop(
    folder: Path, function: LossFunction = sft, lr: float = 0.1, **options: Any
) -> tuple[Loop, BigramLearner]:
    learner = BigramLearner(folder, lr)
    run = RunFolder(folder)
    objective = objective_of(function)
    return Loop(learner, objective, loop_options(**options), run, {"seed": 0}), learner


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Counting:
    """The sft objective that does something else at one of its calls (from 1)."""

    def __init__(self, at: int, event: Any) -> None:
        self.at, self.event, self.calls = at, event, 0

    def __call__(self, policy: Policy, batch: Batch) -> torch.Tensor:
        self.calls += 1
        value = sft(policy, batch)
        return self.event(value) if self.calls == self.at else value


def interrupt(number: signal.Signals) -> Any:
    def event(value: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), number)
        return value

    return event


def test_it_learns_and_logs_every_step_and_validation(tmp_path: Path) -> None:
    loop, learner = make_loop(tmp_path / "run", steps=40)
    outcome = loop.run()
    assert outcome.best.exact == 1.0
    assert outcome.best.loss < outcome.start.loss
    records = lines(tmp_path / "run")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 41))
    assert [r["step"] for r in records if "validation" in r] == [0, *range(4, 41, 4)]
    assert learner.kept[-1] == outcome.best_step


def test_the_last_step_is_validated_and_saved_whatever_the_intervals(tmp_path: Path) -> None:
    loop, _ = make_loop(tmp_path / "run", steps=3, validate_every=100, checkpoint_every=100)
    loop.run()
    assert lines(tmp_path / "run")[-1]["step"] == 3
    assert "validation" in lines(tmp_path / "run")[-1]
    assert (tmp_path / "run" / "checkpoint.pt").is_file()


def test_cosine_decay_starts_whole_and_constant_stays(tmp_path: Path) -> None:
    for schedule in ("cosine", "constant"):
        loop, _ = make_loop(tmp_path / schedule, steps=8, schedule=schedule)
        loop.run()
        rates = [r["rate"] for r in lines(tmp_path / schedule) if "rate" in r]
        assert rates[0] == 1.0
        assert (rates[-1] < 0.05) == (schedule == "cosine")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_a_resumed_run_is_bit_identical(
    tmp_path: Path, number: signal.Signals
) -> None:
    whole, expected = make_loop(tmp_path / "whole")
    outcome = whole.run()

    before = signal.getsignal(number)
    part, _ = make_loop(tmp_path / "part", Counting(7, interrupt(number)))
    with pytest.raises(Interrupted, match="stopped after step 7 of 12") as caught:
        part.run()
    assert caught.value.exit_code == 130
    assert "--resume" in str(caught.value)
    assert signal.getsignal(number) == before

    rest, learner = make_loop(tmp_path / "part")
    rest.resume()
    resumed = rest.run()
    assert torch.equal(learner.table, expected.table)
    assert (resumed.best, resumed.best_step) == (outcome.best, outcome.best_step)
    assert resumed.start == outcome.start
    assert lines(tmp_path / "part") == lines(tmp_path / "whole")


def test_resuming_after_a_crash_repeats_the_steps_since_the_checkpoint(tmp_path: Path) -> None:
    whole, expected = make_loop(tmp_path / "whole")
    whole.run()

    def crash(value: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    part, _ = make_loop(tmp_path / "part", Counting(9, crash))
    with pytest.raises(MemoryError):
        part.run()
    with (tmp_path / "part" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    rest, learner = make_loop(tmp_path / "part")
    rest.resume()
    assert rest.at.step == 5
    rest.run()
    assert torch.equal(learner.table, expected.table)
    assert lines(tmp_path / "part") == lines(tmp_path / "whole")


def test_a_run_is_not_resumed_with_other_options(tmp_path: Path) -> None:
    loop, _ = make_loop(tmp_path / "run")
    loop.run()
    other, _ = make_loop(tmp_path / "run")
    other.identity = {"seed": 1}
    with pytest.raises(OptionError, match="seed = 1"):
        other.resume()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_best(
    tmp_path: Path, bad: float
) -> None:
    loop, learner = make_loop(tmp_path / "run", Counting(6, lambda value: value * bad))
    with pytest.raises(CheckFailed, match="step 6: the loss is"):
        loop.run()
    assert learner.file.is_file()
    assert learner.table.isfinite().all()


def test_a_gradient_that_is_not_finite_is_not_applied(tmp_path: Path) -> None:
    def poison(value: torch.Tensor) -> torch.Tensor:
        # 0 * d sqrt(0)/dx is NaN, while the value itself stays finite.
        return value + 0.0 * (value - value).sqrt()

    loop, learner = make_loop(tmp_path / "run", Counting(3, poison))
    with pytest.raises(CheckFailed, match="step 3: the gradient is nan"):
        loop.run()
    assert learner.table.isfinite().all()


def test_an_exploding_loss_ends_the_run(tmp_path: Path) -> None:
    loop, _ = make_loop(tmp_path / "run", Counting(4, lambda value: value * 1e6))
    with pytest.raises(CheckFailed, match=r"(?s)the loss went from .*lower --lr"):
        loop.run()


def test_of_equal_scores_the_lower_loss_is_kept(tmp_path: Path) -> None:
    loop, learner = make_loop(tmp_path / "run", steps=60, validate_every=10, schedule="constant")
    outcome = loop.run()
    found = [r for r in lines(tmp_path / "run") if "validation" in r]
    exact = [r for r in found if r["validation"]["exact"] == 1.0]
    assert len(exact) > 1
    best = min(exact, key=lambda record: float(record["validation"]["loss"]))
    assert outcome.best_step == best["step"] == learner.kept[-1]


def test_progress_counts_from_zero_to_the_last_step(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    loop, _ = make_loop(tmp_path / "run", steps=2)
    loop.run(lambda *call: seen.append(call))
    assert seen == [("train", 0, 2), ("train", 1, 2), ("train", 2, 2)]


def test_a_batch_in_parts_gives_the_step_of_the_whole(tmp_path: Path) -> None:
    whole, expected = make_loop(tmp_path / "whole", steps=4)
    whole.run()
    for parts in (2, 3, 7):
        loop, learner = make_loop(tmp_path / f"parts-{parts}", steps=4, accumulate=parts)
        loop.run()
        assert torch.allclose(learner.table, expected.table, atol=1e-5)
        pairs = zip(lines(tmp_path / "whole"), lines(tmp_path / f"parts-{parts}"), strict=True)
        assert all(a.get("loss") == pytest.approx(b.get("loss")) for a, b in pairs)


def test_what_some_parts_lack_is_the_mean_over_the_others(tmp_path: Path) -> None:
    """Four parts with unlike shares; the second and the last tell nothing of `told`."""

    class Telling(Supervised):
        said: ClassVar[list[dict[str, float]]] = [{"told": 2.0}, {}, {"told": 8.0}, {"rare": 3.0}]

        def batch(self, policy: Policy, step: int) -> Sequence[Row]:
            return TRAIN

        def loss(self, policy: Policy, part: Sequence[Row]) -> Loss:
            assert len(part) == 1
            return super().loss(policy, part)._replace(metrics=self.said[TRAIN.index(part[0])])

    learner, run = BigramLearner(tmp_path / "run"), RunFolder(tmp_path / "run")
    objective = Telling(sft, TRAIN, TRAIN, batch_size=4, seed=0)
    loop = Loop(learner, objective, loop_options(accumulate=4), run, {})
    measured = loop.step(1.0)
    first, _, third, _ = (objective.weight([row]) for row in TRAIN)
    expected = (2 * first + 8 * third) / (first + third)
    assert measured["told"] == pytest.approx(expected)
    assert measured["rare"] == pytest.approx(3.0)
    whole = Loop(BigramLearner(tmp_path), objective_of(sft), loop_options(), run, {})
    whole.objective.batch = lambda policy, step: TRAIN  # type: ignore[method-assign]
    assert measured["loss"] == pytest.approx(whole.step(1.0)["loss"])


def test_a_step_without_any_gradient_changes_nothing(tmp_path: Path) -> None:
    loop, learner = make_loop(tmp_path / "run", lambda policy, batch: torch.tensor(0.0), steps=2)
    loop.run()
    assert not learner.table.any()
    assert lines(tmp_path / "run")[1]["gradient_norm"] == 0.0
