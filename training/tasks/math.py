"""Arithmetic word problems in the manner of SVAMP and GSM8K, scored by `Answer: <number>`.

The scoring follows the evaluation released with ART (arXiv 2606.11854): the last number after
`Answer:` counts. Spaces inside a number end it here; there they are taken out of it.
"""

from __future__ import annotations

import random
import re

from training.tasks.base import Problem, Task

NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack", "Kate",
    "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor",
)  # fmt: skip
THINGS = (
    "apples", "books", "cards", "coins", "cookies", "cups", "eggs", "flowers", "games", "hats",
    "keys", "lamps", "marbles", "pens", "plants", "plates", "rocks", "shells", "stamps", "toys",
)  # fmt: skip

ADD = (
    "{n} has {a} {t} and buys {b} more. How many {t} does {n} have now?",
    "There are {a} {t} in one box and {b} {t} in another box. How many {t} are there in all?",
    "{n} found {a} {t} on Monday and {b} {t} on Tuesday. How many {t} did {n} find?",
    "A shop sold {a} {t} in the morning and {b} in the evening. How many {t} did it sell?",
    "{n} has {a} {t}. {m} has {b} {t}. How many {t} do they have together?",
)
SUBTRACT = (
    "{n} had {a} {t} and gave {b} to {m}. How many {t} does {n} have left?",
    "There were {a} {t} on the table. {n} took {b} away. How many {t} are on the table now?",
    "{n} has {a} {t} and {m} has {b}. How many more {t} does {n} have?",
    "A shop had {a} {t} and sold {b} of them. How many {t} remain?",
    "{n} needs {a} {t} and already has {b}. How many {t} are missing?",
)
MULTIPLY = (
    "There are {a} boxes with {b} {t} in each box. How many {t} are there in all?",
    "{n} buys {a} packs of {b} {t}. How many {t} does {n} buy?",
    "{n} makes {b} {t} every day. How many {t} does {n} make in {a} days?",
    "Each of {a} children has {b} {t}. How many {t} do the children have?",
)
DIVIDE = (
    "{n} shares {a} {t} equally among {b} friends. How many {t} does each friend get?",
    "{a} {t} are put into {b} equal bags. How many {t} are in each bag?",
    "{n} packs {a} {t} into boxes of {b}. How many boxes does {n} need?",
)
ADD_SUBTRACT = (
    "{n} had {a} {t}, bought {b} more and then lost {c}. How many {t} does {n} have now?",
    "There were {a} {t} in a store. {b} arrived and {c} were sold. How many {t} are left?",
)
MULTIPLY_ADD = (
    "{n} buys {a} packs of {b} {t} and has {c} {t} at home. How many {t} does {n} have?",
    "There are {a} rows of {b} {t} and {c} more {t}. How many {t} are there in all?",
)

HINTS = {
    "answer": (
        "Show the calculation and end with Answer: and the number.",
        "Finish with a line Answer: <number>.",
        "Work it out, then write Answer: <number>.",
    ),
    "sentence": ("Reply in a full sentence.", "Say it in one sentence."),
    "json": ("Reply in JSON.", "Give the result as a JSON object."),
    "boxed": ("Put the result in a box.", "Write the result as \\boxed{}."),
    "steps": ("Explain it step by step.", "List the steps."),
}


def draw(rng: random.Random) -> Problem:
    """A problem with values drawn from `rng`: one step four times out of five, else two."""
    kind = rng.choices(
        ("add", "subtract", "multiply", "divide", "add_subtract", "multiply_add"),
        (30, 30, 14, 10, 8, 8),
    )[0]
    templates, values, steps, result = _KINDS[kind](rng)
    index = rng.randrange(len(templates))
    thing = rng.choice(THINGS)
    first, second = rng.sample(NAMES, 2)
    a, b, c = (*values, 0)[:3]
    question = templates[index].format(n=first, m=second, t=thing, a=a, b=b, c=c)
    return Problem(_content(kind, index, thing, values), question, _answers(steps, result, thing))


def _content(kind: str, template: int, thing: str, values: tuple[int, ...]) -> str:
    """Sums, differences and two-step problems are held out by their numbers alone, in every
    wording. Products and quotients are facts to know by heart (there are under 100), so there
    the wording counts too."""
    numbers = f"math/{kind}/{'-'.join(map(str, values))}"
    return f"{numbers}/{template}/{thing}" if kind in ("multiply", "divide") else numbers


Drawn = tuple[tuple[str, ...], tuple[int, ...], list[str], int]
"""Templates, values, the steps of the calculation, the result."""


def _add(rng: random.Random) -> Drawn:
    a, b = rng.randint(2, 50), rng.randint(2, 50)
    return ADD, (a, b), [f"{a} + {b} = {a + b}"], a + b


def _subtract(rng: random.Random) -> Drawn:
    a = rng.randint(4, 60)
    b = rng.randint(2, a - 1)
    return SUBTRACT, (a, b), [f"{a} - {b} = {a - b}"], a - b


def _multiply(rng: random.Random) -> Drawn:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return MULTIPLY, (a, b), [f"{a} * {b} = {a * b}"], a * b


def _divide(rng: random.Random) -> Drawn:
    b, c = rng.randint(2, 9), rng.randint(2, 9)
    return DIVIDE, (b * c, b), [f"{b * c} / {b} = {c}"], c


def _add_subtract(rng: random.Random) -> Drawn:
    a, b = rng.randint(2, 30), rng.randint(2, 30)
    both = a + b
    c = rng.randint(2, both - 1)
    return (
        ADD_SUBTRACT,
        (a, b, c),
        [f"{a} + {b} = {both}", f"{both} - {c} = {both - c}"],
        both - c,
    )


def _multiply_add(rng: random.Random) -> Drawn:
    a, b, c = rng.randint(2, 6), rng.randint(2, 9), rng.randint(2, 50)
    product = a * b
    return (
        MULTIPLY_ADD,
        (a, b, c),
        [f"{a} * {b} = {product}", f"{product} + {c} = {product + c}"],
        product + c,
    )


_KINDS = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "add_subtract": _add_subtract,
    "multiply_add": _multiply_add,
}


def _answers(steps: list[str], result: int, thing: str) -> dict[str, str]:
    work = ", ".join(steps)
    listed = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return {
        "answer": f"{work}\nAnswer: {result}",
        "sentence": f"Since {work}, there are {result} {thing}.",
        "json": f'{{"work": "{work}", "result": {result}}}',
        "boxed": f"We get {work} so \\boxed{{{result}}}",
        "steps": f"{listed}\nDone, {result} {thing}.",
    }


_ANSWER = re.compile(r"Answer:\s*\$?\s*(-?\d[\d,]*(?:\.\d+)?)", re.IGNORECASE)


def final_number(text: str) -> float | None:
    """The last number that follows `Answer:`, in any case and with or without a dollar sign."""
    found = _ANSWER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def is_correct(completion: str, reference: str) -> bool:
    """Whether the final numbers are equal, to within 1e-6."""
    number, wanted = final_number(completion), final_number(reference)
    return number is not None and wanted is not None and abs(number - wanted) < 1e-6


TASK = Task("math", "answer", HINTS, draw, is_correct, max_new_tokens=48, reward="number")
