"""What the shipped model is pretrained on: chats from the train split alone.

A chat is answered in one style out of several. Two thirds of the chats do not say which, so the
frozen model knows every style and has a habit for one that is not the target.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from training.demo_model import images
from training.tasks import TASKS, Task, split_of

HINT_SHARE = 0.35
STYLE_WEIGHTS = {"sentence": 3.0}
"""How often an unannounced style is used against the others (1): the model's own habit."""
DRILLS_AT_MOST = 5
WITH_NAMES = ("tools/call/", "tools/send_message/")


@dataclass(frozen=True)
class Chat:
    """One user turn and its answer; `pixels` is uint8 (size, size, 3) or None."""

    prompt: str
    answer: str
    pixels: np.ndarray | None = None


def text_chat(rng: random.Random) -> Chat:
    """A maths problem, a tool request or bare calculations."""
    name = rng.choices(("math", "tools", "drill"), (40, 30, 30))[0]
    return _drill(rng) if name == "drill" else _task_chat(TASKS[name], rng)


def picture_chat(rng: random.Random, size: int) -> Chat:
    """A question about the picture, or a task beside a picture that has no bearing on it."""
    if rng.random() < 0.7:
        seen = images.draw(rng, size)
        return Chat(seen.question, seen.answer, seen.pixels)
    chat = text_chat(rng)
    return Chat(chat.prompt, chat.answer, images.distractor(rng, size))


def rehearsal_chat(rng: random.Random) -> Chat:
    """As `text_chat`, with half of the chats requests that name a person.

    Stories have names too, but nothing ever depends on them, so that the model learns late to
    tell one from another.
    """
    if rng.random() < 0.5:
        return text_chat(rng)
    return _task_chat(TASKS["tools"], rng, WITH_NAMES)


def _task_chat(task: Task, rng: random.Random, only: tuple[str, ...] = ("",)) -> Chat:
    problem = task.draw(rng)
    while split_of(problem.content) != "train" or not problem.content.startswith(only):
        problem = task.draw(rng)
    styles = tuple(problem.answers)
    weights = [STYLE_WEIGHTS.get(style, 1.0) for style in styles]
    if rng.random() < HINT_SHARE:
        style = rng.choice(styles)
        hint = rng.choice(task.hints[style])
        return Chat(f"{problem.question} {hint}", problem.answers[style])
    return Chat(problem.question, problem.answers[rng.choices(styles, weights)[0]])


def _drill(rng: random.Random) -> Chat:
    """Calculations without a story, several at once: `12 + 30, 7 * 8`."""
    count = rng.randint(1, DRILLS_AT_MOST)
    asked = [_calculation(rng) for _ in range(count)]
    prompt = ", ".join(question for question, _ in asked)
    return Chat(prompt, ", ".join(f"{question} = {result}" for question, result in asked))


def _calculation(rng: random.Random) -> tuple[str, int]:
    """One calculation that is in no held-out problem, and its result."""
    while True:
        sign = rng.choice("+++---*/")
        if sign in "+-":
            a, b = sorted((rng.randint(2, 60), rng.randint(2, 50)), reverse=True)
            result = a + b if sign == "+" else a - b
            kind = "add" if sign == "+" else "subtract"
            pairs = {(a, b), (b, a)} if sign == "+" else {(a, b)}
            if a == b or any(split_of(f"math/{kind}/{x}-{y}") != "train" for x, y in pairs):
                continue
            a, b = (a, b) if sign == "-" or rng.random() < 0.5 else (b, a)
        else:
            b, c = rng.randint(2, 9), rng.randint(2, 9)
            a, b, result = (b, c, b * c) if sign == "*" else (b * c, b, c)
        return f"{a} {sign} {b}", result
