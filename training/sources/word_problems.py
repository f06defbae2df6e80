"""GSM8K and SVAMP, asked and scored as in the evaluation released with ART.

The request at the end of a prompt and the rule of scoring are those of github.com/jinymusim/ART
(arXiv 2606.11854), so that figures can be compared: the last number after `Answer:` counts.
GSM8K: Cobbe et al., arXiv 2110.14168. SVAMP: Patel et al., arXiv 2103.07191.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from training.sources.base import Fields, Format, Hub, Line, Reading
from training.tasks.base import Example
from training.tasks.math import is_correct

REQUEST = "\n\nEnd your response with: Answer: <number>"
"""What every prompt ends with."""
NEW_TOKENS = 512
"""The limit on generated tokens in the released evaluation."""
GSM8K_LINE = '{"question": "...", "answer": "worked steps\\n#### 42"}'
SVAMP_LINE = '{"Body": "...", "Question": "...", "Equation": "( 4.0 - 3.0 )", "Answer": 1.0}'
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_NUMBER = re.compile(r"-?(?:\d[\d,]*)?\.?\d+")


def read_gsm8k(lines: Sequence[Line]) -> Reading:
    """Answers are the worked text without the calculator's marks, then `Answer: N`."""
    return Reading(tuple(map(_gsm8k, lines)), is_correct, "number")


def read_svamp(lines: Sequence[Line]) -> Reading:
    """Answers are the equation with its result, then `Answer: N`. An equation that does not give
    the answer (the data has some) is left out."""
    return Reading(tuple(map(_svamp, lines)), is_correct, "number")


def _gsm8k(line: Line) -> Example:
    fields = Fields.of(line, GSM8K_LINE)
    question = fields.text("question")
    work, mark, number = fields.text("answer").rpartition("####")
    if not mark or not _NUMBER.fullmatch(number.strip()):
        raise fields.wrong("an 'answer' that does not end with #### and a number")
    steps = _CALCULATOR.sub("", work).strip()
    answer = f"{steps}\nAnswer: {number.strip().replace(',', '')}".strip()
    return Example(question.strip() + REQUEST, answer, f"gsm8k/{question.strip()}")


def _svamp(line: Line) -> Example:
    fields = Fields.of(line, SVAMP_LINE)
    problem = f"{fields.text('Body').strip()} {fields.text('Question').strip()}"
    number = _number(fields, fields.get("Answer"))
    equation = _equation(str(fields.row.get("Equation", "")), number)
    lines = ([f"{equation} = {_plain(number)}"] if equation else []) + [f"Answer: {_plain(number)}"]
    return Example(problem + REQUEST, "\n".join(lines), f"svamp/{problem}")


def _number(fields: Fields, value: object) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise fields.wrong(f"the 'Answer' {value!r}, which is no number")
    return number


def _plain(number: float) -> str:
    return str(int(number)) if number.is_integer() else str(number)


_OPERATORS: dict[type[ast.operator], tuple[str, Callable[[float, float], float]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
}


def _equation(text: str, result: float) -> str | None:
    """`text` with whole numbers and no outer brackets, or None if it is not equal to `result`."""
    try:
        written, value = _evaluated(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return written if math.isclose(value, result, rel_tol=1e-9, abs_tol=1e-9) else None


def _evaluated(node: ast.expr) -> tuple[str, float]:
    """The equation as text, and its value. ValueError: it is none."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _plain(float(value)), float(value)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            sign, compute = _OPERATORS[type(op)]
            first, second = _evaluated(left), _evaluated(right)
            written = f"{_bracketed(left, first)} {sign} {_bracketed(right, second)}"
            return written, compute(first[1], second[1])
    raise ValueError("not an equation")


def _bracketed(node: ast.expr, part: tuple[str, float]) -> str:
    return f"({part[0]})" if isinstance(node, ast.BinOp) else part[0]


def _is_gsm8k(row: Any) -> bool:
    return "####" in str(row.get("answer", "")) and "question" in row


GSM8K = Format(
    "gsm8k",
    GSM8K_LINE,
    _is_gsm8k,
    read_gsm8k,
    NEW_TOKENS,
    Hub(
        "openai/gsm8k",
        "e53f048856ff4f594e959d75785d2c2d37b678ee",
        ("main/train-00000-of-00001.parquet",),
        ("main/test-00000-of-00001.parquet",),
    ),
)
SVAMP = Format(
    "svamp",
    SVAMP_LINE,
    lambda row: {"Body", "Question", "Answer"} <= row.keys(),
    read_svamp,
    NEW_TOKENS,
    Hub(
        "ChilleD/SVAMP",
        "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
        ("data/train-00000-of-00001.parquet",),
        ("data/test-00000-of-00001.parquet",),
    ),
)
