from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from art_export.evaluate import Answered, evaluate, example_id, wilson_interval
from engines.errors import OptionError
from engines.runtime import Completion


@dataclass(frozen=True)
class Question:
    prompt: str
    answer: str


# Bounds published in R. G. Newcombe, "Two-sided confidence intervals for the single proportion",
# Statistics in Medicine 17 (1998), table I, method 3 (score, without continuity correction).
@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0000),
    ],
)
def test_wilson_matches_the_published_intervals(
    correct: int, n: int, low: float, high: float
) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(pair: tuple[int, int]) -> None:
    correct, n = pair
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    mirrored = wilson_interval(n - correct, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(OptionError):
        wilson_interval(correct, n)


def test_evaluate_scores_each_completion_against_its_own_answer() -> None:
    questions = [Question("x" * length, str(length)) for length in (5, 1, 3, 2, 4)]
    batches: list[int] = []

    def generate(prompts: Sequence[str]) -> list[str]:
        batches.append(len(prompts))
        return [str(len(prompt)) if len(prompt) != 3 else "wrong" for prompt in prompts]

    seen: list[tuple[str, int, int]] = []
    score = evaluate(
        generate,
        questions,
        lambda text, answer: text == answer,
        batch_size=2,
        progress=lambda *at: seen.append(at),
    )
    assert (score.correct, score.n, score.accuracy) == (4, 5, 0.8)
    assert score.low < 0.8 < score.high
    assert batches == [2, 2, 1]
    assert seen[0] == ("evaluate", 0, 5)
    assert seen[-1] == ("evaluate", 5, 5)


def test_evaluate_refuses_nothing_to_score() -> None:
    with pytest.raises(OptionError, match="0 examples"):
        evaluate(lambda prompts: [], [], lambda text, answer: True)


def test_evaluate_notices_a_missing_completion() -> None:
    with pytest.raises(ValueError, match="argument"):
        evaluate(lambda prompts: [], [Question("a", "b")], lambda text, answer: True)


def test_every_example_is_recorded() -> None:
    questions = [Question("one", "1"), Question("three", "3")]
    kept: list[Answered] = []
    answers = {"one": Completion("1", (5, 6), True), "three": Completion("no", (7,), True)}
    evaluate(
        lambda prompts: [answers[prompt] for prompt in prompts],
        questions,
        lambda text, answer: text == answer,
        record=kept.append,
    )
    assert [(one.prompt, one.completion, one.reference) for one in kept] == [
        ("one", "1", "1"),
        ("three", "no", "3"),
    ]
    assert [(one.correct, one.tokens) for one in kept] == [(True, 2), (False, 1)]
    assert [one.id for one in kept] == [example_id(question) for question in questions]


def test_an_example_is_named_by_what_it_is_about() -> None:
    @dataclass(frozen=True)
    class Known(Question):
        content: str

    asked, hinted = Known("2 + 2?", "4", "sum/2/2"), Known("2 + 2? In words.", "4", "sum/2/2")
    assert example_id(asked) == example_id(hinted)
    assert example_id(asked) != example_id(Known("2 + 2?", "5", "sum/2/2"))
    assert example_id(Question("a", "b")) != example_id(Question("b", "a"))
