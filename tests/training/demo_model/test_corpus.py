"""The shipped model never saw what it is tested on."""

from __future__ import annotations

import random

from training.demo_model import corpus, images
from training.tasks import TASKS, split_of


def test_no_held_out_question_is_in_the_corpus() -> None:
    rng = random.Random(1)
    prompts = [corpus.text_chat(rng).prompt for _ in range(4000)]
    prompts += [corpus.picture_chat(rng, 32).prompt for _ in range(400)]
    for task in TASKS.values():
        for split in ("validation", "test"):
            questions = {example.prompt for example in task.examples(split, 1000)}
            # A hint follows the question, so that a prompt starts with it.
            assert not [p for p in prompts if any(p.startswith(q) for q in questions)]


def test_drills_leave_out_the_held_out_sums() -> None:
    rng = random.Random(2)
    drills = [corpus._drill(rng).prompt for _ in range(3000)]
    for text in (each for drill in drills for each in drill.split(", ")):
        a, sign, b = text.split()
        kind = {"+": "add", "-": "subtract"}.get(sign)
        if kind:
            assert split_of(f"math/{kind}/{a}-{b}") == "train"


def test_two_thirds_of_the_chats_do_not_say_how_to_answer() -> None:
    rng = random.Random(3)
    hints = [hint for task in TASKS.values() for group in task.hints.values() for hint in group]
    chats = [corpus._task_chat(TASKS[rng.choice(("math", "tools"))], rng) for _ in range(2000)]
    announced = sum(any(chat.prompt.endswith(hint) for hint in hints) for chat in chats)
    assert 0.30 < announced / len(chats) < 0.40


def test_pictures_and_questions_are_the_same_for_the_same_seed() -> None:
    first, second = (images.draw(random.Random(5), 64) for _ in range(2))
    assert (first.pixels == second.pixels).all()
    assert (first.question, first.answer) == (second.question, second.answer)
    assert first.pixels.shape == (64, 64, 3)
    assert first.pixels.std() > 0
    assert images.distractor(random.Random(0), 64).shape == (64, 64, 3)
