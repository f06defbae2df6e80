from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import DataError
from tests.shared_data import shared
from training.data import find_source
from training.rewards import load_reward
from training.sources.base import Line
from training.sources.word_problems import REQUEST, read_gsm8k, read_svamp
from training.tasks import SPLITS, Example
from training.tasks.math import final_number, is_correct

GSM8K = {
    "question": "Tom has 2 boxes of 1,000 nails. How many?",
    "answer": "He has 2*1000 = <<2*1000=2000>>2,000 nails.\n#### 2,000",
}
SVAMP = {
    "Body": "Tom had 5 nails.",
    "Question": "How many now?",
    "Equation": "( ( 5.0 + 3.0 ) - 0.5 )",
    "Answer": 7.5,
}
NUMBER = st.integers(-(10**9), 10**9) | st.decimals(-1000, 1000, places=2).map(float)


def gsm8k(row: Any) -> Example:
    return read_gsm8k([Line(row, "line 1")]).examples[0]


def svamp(row: Any) -> Example:
    return read_svamp([Line(row, "line 1")]).examples[0]


def test_gsm8k_asks_and_answers_as_the_released_evaluation_does() -> None:
    example = gsm8k(GSM8K)
    assert example.prompt == GSM8K["question"] + REQUEST
    assert example.prompt.endswith("\n\nEnd your response with: Answer: <number>")
    assert example.answer == "He has 2*1000 = 2,000 nails.\nAnswer: 2000"
    assert is_correct("So it is 2,000.\nAnswer: $2,000", example.answer)


def test_svamps_answer_is_the_equation() -> None:
    example = svamp(SVAMP)
    assert example.prompt == "Tom had 5 nails. How many now?" + REQUEST
    assert example.answer == "(5 + 3) - 0.5 = 7.5\nAnswer: 7.5"
    for equation in ("( 5.0 - 3.0 )", "( 5.0 / 0.0 )", "import os", "(" * 9999, "", "5 ** 2"):
        assert svamp(SVAMP | {"Equation": equation}).answer == "Answer: 7.5"


@given(a=NUMBER, b=NUMBER, sign=st.sampled_from("+-*/"))
def test_an_equation_is_written_only_if_it_is_true(a: float, b: float, sign: str) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else 0.0}[sign]
    example = svamp(SVAMP | {"Equation": f"( {abs(a)} {sign} {abs(b)} )", "Answer": value})
    left, _, _ = example.answer.rpartition("Answer: ")
    if left:
        equation, _, result = left.strip().rpartition(" = ")
        assert eval(equation) == pytest.approx(float(result))
    assert final_number(example.answer) == pytest.approx(value, rel=1e-9, abs=1e-6) or "e" in str(
        value
    )


@given(number=NUMBER, text=st.text(max_size=20))
def test_the_last_number_after_answer_counts(number: float, text: str) -> None:
    said = f"{text.replace(':', '')}\nanswer: 3 and then\nAnswer: $ {number:,}"
    assert final_number(said) == pytest.approx(number, abs=1e-9)
    assert is_correct(said, f"Answer: {number}")
    assert not is_correct(said, f"Answer: {number + 1}")
    assert not is_correct(text.replace(":", ""), f"Answer: {number}")


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (gsm8k, [1], "list instead of an object"),
        (gsm8k, {}, "no key 'question'"),
        (gsm8k, GSM8K | {"answer": "It is 5."}, "does not end with ####"),
        (gsm8k, GSM8K | {"answer": "#### five"}, "does not end with ####"),
        (gsm8k, GSM8K | {"question": " "}, "the 'question' is empty"),
        (svamp, {"Body": "x"}, "no key 'Question'"),
        (svamp, SVAMP | {"Answer": "many"}, "which is no number"),
        (svamp, SVAMP | {"Answer": None}, "which is no number"),
        (svamp, SVAMP | {"Answer": float("inf")}, "which is no number"),
    ],
)
def test_a_malformed_row_is_told(read: Any, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(row)


def test_rewards_are_those_of_the_paper(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("\n".join(json.dumps(GSM8K | {"question": f"q{i}"}) for i in range(9)))
    reward = load_reward(None, find_source(str(path)))
    scores = [reward(f"Answer: {n}", "Answer: 100") for n in (100, 101, 109, 50)]
    assert scores == [1.0, 0.4, 0.2, 0.1]
    assert reward("It is 100.", "Answer: 100") == 0.01


@pytest.mark.parametrize(("name", "rows"), [("gsm8k", 7473), ("svamp", 700)])
def test_the_real_files_are_read(name: str, rows: int) -> None:
    source = find_source(str(shared(f"{name}/train.jsonl")))
    assert source.name == f"{name}:train.jsonl"
    assert source.max_new_tokens == 512
    found = [example for split in SPLITS for example in source.examples(split, 10**6)]
    assert len(found) == rows
    for example in found:
        assert source.is_correct(example.answer, example.answer)
        assert "<<" not in example.answer
