from __future__ import annotations

import json

import pytest

from engines.errors import OptionError
from training.rewards import REWARDS, exact, load_reward, number, tool
from training.tasks import TASKS

CALL = {"name": "set_alarm", "arguments": {"time": "07:30", "day": "Monday"}}


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("12 + 30 = 42\nAnswer: 42", 1.0),
        ("Answer: 41\nAnswer: 42", 1.0),
        ("Answer: 42.0", 1.0),
        ("Answer: 42.4", 0.4),
        ("Answer: 45", 0.2),
        ("Answer: -42", 0.1),
        ("Answer: 9,999", 0.1),
        ("It is 42.", 0.01),
        ("Answer: many", 0.0),
        ("", 0.0),
    ],
)
def test_numbers_earn_by_how_near_they_are(completion: str, expected: float) -> None:
    assert number(completion, "12 + 30 = 42\nAnswer: 42") == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (json.dumps(CALL), 1.0),
        (json.dumps(CALL | {"name": "call"}), 0.1),
        (json.dumps(CALL | {"arguments": {"time": "07:30"}}), 0.6),
        (json.dumps(CALL | {"arguments": {"time": "07:31", "day": "Monday"}}), 0.6),
        (json.dumps(CALL | {"arguments": {}}), 0.3),
        (json.dumps(CALL | {"arguments": [1]}), 0.3),
        (json.dumps(CALL | {"arguments": {**CALL["arguments"], "more": 1}}), 0.9),  # type: ignore[dict-item]
        (json.dumps(CALL | {"more": 1}), 0.9),
        (json.dumps([CALL]), 0.0),
        (json.dumps(CALL)[:-1], 0.0),
        (json.dumps(CALL) + " Done.", 0.0),
        ("set_alarm('07:30')", 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_a_call_earns_by_its_parts(completion: str, expected: float) -> None:
    assert tool(completion, json.dumps(CALL)) == pytest.approx(expected)


def test_a_call_without_arguments() -> None:
    bare = json.dumps({"name": "stop", "arguments": {}})
    assert tool(bare, bare) == 1.0
    assert tool('{"name": "stop", "arguments": {"x": 1}}', bare) == pytest.approx(0.3)


def test_exact_is_all_or_nothing() -> None:
    assert (exact(" a\n", "a"), exact("b", "a")) == (1.0, 0.0)


@pytest.mark.parametrize("name", ["math", "tools"])
def test_a_task_brings_its_reward_and_right_answers_earn_all(name: str) -> None:
    task = TASKS[name]
    reward = load_reward(None, task)
    assert reward is load_reward(task.reward, task)
    for example in task.examples("train", 20):
        assert reward(example.answer, example.answer) == 1.0


def test_rewards_are_found_by_name() -> None:
    assert all(callable(load_reward(name, TASKS["math"])) for name in REWARDS)
    with pytest.raises(OptionError, match="did you mean 'number'"):
        load_reward("numbers", TASKS["math"])
