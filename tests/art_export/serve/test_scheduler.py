"""The engine's thread: mixed pictures in one batch, limits, cancelling, ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from art_export.bundle import Bundle
from art_export.serve.job import Answer, Event, Job, Piece, Question
from art_export.serve.metrics import Metrics
from art_export.serve.scheduler import BusyError, ClosingError, Limits, Scheduler
from engines.conversation import Conversation
from engines.errors import PromptError
from engines.picture import Picture
from engines.rows import LiveBatch
from engines.sampling import SamplingOptions

SIZE = 64
ARTS = ("one", "two", None)


@pytest.fixture(scope="module")
def bundle(tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    path = shutil.copytree(tiny_bundle_dir, tmp_path_factory.mktemp("serve") / "bundle")
    rng = np.random.default_rng(0)
    with Bundle.load(path) as loaded:
        for name in ("one", "two"):
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            loaded.swap(Picture(pixels), name)
        yield loaded


@pytest.fixture
def scheduler(bundle: Bundle) -> Iterator[Scheduler]:
    """Three rows at a time, two more may wait."""
    made = Scheduler(bundle, Limits(max_batch=3, max_queue=2), Metrics())
    yield made
    if made.alive:
        assert made.close(timeout=60)


class Asked(Job):
    """A job whose events are kept."""

    def __init__(self, question: Question) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        super().__init__(question, self.events.put)

    def answer(self) -> Answer:
        while True:
            event = self.events.get(timeout=60)
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Answer):
                return event


def _question(number: int, tokens: int = 12, stream: bool = False) -> Question:
    return Question(ARTS[number % 3], f"Call {number}" * (number + 1), tokens, stream=stream)


def test_mixed_pictures_that_come_at_any_time_are_answered_as_alone(
    bundle: Bundle, scheduler: Scheduler
) -> None:
    scheduler.start()
    jobs = [Asked(_question(number, 5 + 4 * number)) for number in range(5)]
    for job in jobs:
        scheduler.submit(job)
    for job in jobs:
        asked, answer = job.question, job.answer()
        alone = bundle.generate([asked.prompt], asked.art, asked.max_new_tokens or 0)[0]
        assert answer.text == alone.text
        assert answer.usage.completion == len(alone.token_ids)
        assert answer.finish == ("stop" if alone.finished else "length")
        assert answer.usage.cached == bundle.prefix(asked.art).length


def test_a_batch_has_no_more_rows_than_it_may(
    bundle: Bundle, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, step = [], LiveBatch.step

    def counting(batch: LiveBatch, tokens: np.ndarray) -> np.ndarray:
        sizes.append(len(tokens))
        return step(batch, tokens)

    monkeypatch.setattr(LiveBatch, "step", counting)
    jobs = [Asked(_question(number)) for number in range(5)]
    for job in jobs:
        scheduler.submit(job)
    with pytest.raises(BusyError):
        scheduler.submit(Asked(_question(5)))
    scheduler.start()
    assert all(job.answer().usage.prompt > 0 for job in jobs)
    assert max(sizes) == 3
    scheduler.submit(again := Asked(_question(5)))
    again.answer()


def test_pieces_make_up_the_answer(scheduler: Scheduler) -> None:
    scheduler.start()
    scheduler.submit(job := Asked(_question(0, 20, stream=True)))
    pieces: list[str] = []
    while isinstance(event := job.events.get(timeout=60), Piece):
        pieces.append(event.text)
    assert isinstance(event, Answer)
    assert len(pieces) > 1
    assert "".join(pieces) + event.unsent == event.text


def test_a_seed_gives_the_same_answer_in_any_company(scheduler: Scheduler) -> None:
    def ask(seed: int, company: int) -> str:
        warm = SamplingOptions(temperature=1.0, top_p=0.9)
        job = Asked(Question("one", "Call", 12, warm, seed))
        others = [Asked(_question(number)) for number in range(company)]
        for each in (*others, job):
            scheduler.submit(each)
        for each in others:
            each.answer()
        return job.answer().text

    scheduler.start()
    alone = ask(1, 0)
    assert ask(1, 2) == alone
    assert ask(2, 0) != alone


def test_a_stop_sequence_ends_an_answer(bundle: Bundle, scheduler: Scheduler) -> None:
    whole = bundle.generate(["Call"], "one", 12)[0].text
    stop = whole[len(whole) // 2 :][:3]
    scheduler.start()
    scheduler.submit(job := Asked(Question("one", "Call", 12, stops=(stop,))))
    answer = job.answer()
    assert answer.text == whole[: whole.find(stop)]
    assert answer.finish == "stop"


def test_a_cancelled_question_is_dropped(scheduler: Scheduler) -> None:
    running, waiting = Asked(_question(0, 600)), Asked(_question(1))
    scheduler.submit(running)
    waiting.cancelled = True
    scheduler.submit(waiting)
    scheduler.start()
    assert waiting.answer().finish == "cancelled"
    running.cancelled = True
    answer = running.answer()
    assert answer.finish == "cancelled"
    assert answer.usage.completion < 600


def test_errors_of_one_question_do_not_touch_the_others(scheduler: Scheduler) -> None:
    scheduler.start()
    long, wordy = Asked(Question("one", "x " * 5000)), Asked(Question("one", "Call", 5000))
    for job in (long, wordy, good := Asked(_question(0))):
        scheduler.submit(job)
    with pytest.raises(PromptError, match="at most 1024"):
        long.answer()
    with pytest.raises(PromptError, match="max_tokens 5000"):
        wordy.answer()
    assert good.answer().usage.completion


def test_a_failed_step_is_told_and_the_next_batch_works(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = LiveBatch.step

    def failing(batch: LiveBatch, tokens: np.ndarray) -> np.ndarray:
        monkeypatch.setattr(LiveBatch, "step", step)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LiveBatch, "step", failing)
    scheduler.start()
    scheduler.submit(job := Asked(_question(0)))
    with pytest.raises(RuntimeError, match="out of memory"):
        job.answer()
    scheduler.submit(job := Asked(_question(0)))
    assert job.answer().usage.completion


def test_a_conversation_of_several_turns(bundle: Bundle, scheduler: Scheduler) -> None:
    turns = [("user", "Call"), ("assistant", "Whom?"), ("user", "Bob")]
    talk = Conversation.of([{"role": role, "content": text} for role, text in turns])
    scheduler.start()
    scheduler.submit(job := Asked(Question("two", talk, 8)))
    assert job.answer().text == bundle.generate([talk], "two", 8)[0].text


def test_closing_answers_what_was_taken_and_takes_nothing_new(scheduler: Scheduler) -> None:
    jobs = [Asked(_question(number)) for number in range(5)]
    for job in jobs:
        scheduler.submit(job)
    scheduler.start()
    work = scheduler.call(lambda: "done")
    assert scheduler.close(timeout=60)
    assert work.result(0) == "done"
    assert all(job.answer().finish in ("stop", "length") for job in jobs)
    with pytest.raises(ClosingError):
        scheduler.submit(Asked(_question(0)))
    with pytest.raises(ClosingError):
        scheduler.call(lambda: None)
    assert not scheduler.alive
