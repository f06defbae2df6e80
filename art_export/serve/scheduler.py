"""The one thread that owns the engine: it answers what comes in, many questions in one batch.

Questions are prefilled when they come and their rows join the batch between two tokens; rows leave
it when their answers end (continuous batching). Joining copies the states of all rows, so while
a batch runs new rows wait until its steps have taken some times as long as the last joining took.
Everything else that needs the engine, such as a swap, runs between two steps as well.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from art_export.bundle import Bundle
from art_export.serve.job import Answer, Job, Piece, Usage
from art_export.serve.metrics import Metrics
from art_export.serve.transcript import Transcript
from engines.errors import PromptError
from engines.prefix import PrefixState
from engines.rows import LiveBatch, Row
from engines.sampling import pick

_LOG = logging.getLogger(__name__)
Result = TypeVar("Result")
STEPS_PER_JOIN = 3.0
"""Seconds of steps that must follow a second of joining, so that answers under way advance."""
MOSTLY_GONE = 0.5
"""A batch is made smaller when no more than this share of its rows is still wanted."""


class BusyError(Exception):
    """As many questions wait as may."""


class ClosingError(Exception):
    """The server is stopping, and takes nothing new."""


@dataclass(frozen=True)
class Limits:
    """max_batch: rows answered together. max_queue: questions that may wait beside them.
    max_new_tokens: of one answer; None for as many as fit the model."""

    max_batch: int = 32
    max_queue: int = 256
    max_new_tokens: int | None = None


@dataclass(frozen=True, eq=False)
class _Ready:
    """A question that has been checked and turned into tokens."""

    job: Job
    prefix: PrefixState
    tail: list[int]
    most: int


@dataclass(eq=False)
class _Live:
    """An answer under way. token: the last one, which its row has not seen yet."""

    ready: _Ready
    transcript: Transcript
    rng: np.random.Generator
    waited: float
    token: int = 0
    over: bool = False

    @property
    def left(self) -> int:
        return self.ready.most - len(self.transcript.token_ids)


class Scheduler:
    """See the module. `start` it once, then `submit` and `call` from any thread."""

    def __init__(self, bundle: Bundle, limits: Limits, metrics: Metrics) -> None:
        engine = bundle.runtime.engine
        self.limits, self.metrics = limits, metrics
        self._bundle, self._runtime = bundle, bundle.runtime
        self._max_batch = min(limits.max_batch, engine.max_batch or limits.max_batch)
        self._inbox: SimpleQueue[Job | Callable[[], None] | None] = SimpleQueue()
        self._ready: deque[_Ready] = deque()
        self._batch, self._live = LiveBatch(engine), list[_Live]()
        self._pending, self._lock = 0, threading.Lock()
        self._closing = False
        self._owed = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether questions are being answered."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Take a question.

        Raises:
            BusyError: too many wait. ClosingError: the server is stopping.
        """
        with self._lock:
            if self._closing:
                raise ClosingError
            if self._pending >= self._max_batch + self.limits.max_queue:
                raise BusyError
            self._pending += 1
            self.metrics.pending.set(self._pending)
            self._inbox.put(job)

    def call(self, work: Callable[[], Result]) -> Future[Result]:
        """Run `work` between two steps, alone with the engine.

        Raises:
            ClosingError: the server is stopping.
        """
        future: Future[Result] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)

        with self._lock:
            if self._closing:
                raise ClosingError
            self._inbox.put(run)
        return future

    def close(self, timeout: float | None = None) -> bool:
        """Take nothing new, answer what was taken, and end the thread; whether it has ended."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._inbox.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the engine's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        more = True
        while more or self._ready or self._live:
            more = self._receive(wait=not self._ready and not self._live) and more
            try:
                self._advance()
            except Exception as error:
                # Whatever it was, it concerns those in the batch; the next ones get a new batch.
                _LOG.exception("a decode step failed")
                self._fail(error)

    def _receive(self, *, wait: bool) -> bool:
        """Take in what has come; False once nothing more will."""
        while True:
            try:
                item = self._inbox.get(block=wait)
            except Empty:
                return True
            if item is None:
                return False
            if isinstance(item, Job):
                self._check_in(item)
            else:
                item()
            wait = False

    def _check_in(self, job: Job) -> None:
        """Look at a question at once, however long it will wait: its errors need no engine."""
        question = job.question
        try:
            prefix = self._bundle.prefix(question.art)
            tail = self._runtime.tail(question.prompt, prefix, 1)
            room = self._runtime.chat.max_length - prefix.length - len(tail)
            _check_room(question.max_new_tokens, room)
        except Exception as error:
            self._close_job(job, error)
            return
        most = min(question.max_new_tokens or room, self.limits.max_new_tokens or room)
        self._ready.append(_Ready(job, prefix, tail, most))

    def _advance(self) -> None:
        """Let rows in and out if it is time, and make one step."""
        for live in self._live:
            if live.ready.job.cancelled and not live.over:
                self._end(live, "cancelled")
        self._drop_cancelled()
        wanted = sum(not live.over for live in self._live)
        paid = not wanted or self._owed <= 0
        joining = bool(self._ready) and wanted < self._max_batch and paid
        if joining or self._must_change(wanted):
            self._change(joining)
        if self._live:
            self._step()

    def _must_change(self, wanted: int) -> bool:
        return bool(self._live) and (
            wanted <= MOSTLY_GONE * len(self._live) or not self._batch.room
        )

    def _change(self, joining: bool) -> None:
        keep = [place for place, live in enumerate(self._live) if not live.over]
        kept = [self._live[place] for place in keep]
        came, rows = self._prefill(self._max_batch - len(keep)) if joining else ([], [])
        began = time.monotonic()
        self._live = kept + came
        self._batch.change(keep, rows, max((each.left for each in self._live), default=0))
        self.metrics.running.set(len(self._live))
        self._owed = STEPS_PER_JOIN * (time.monotonic() - began)

    def _prefill(self, places: int) -> tuple[list[_Live], list[Row]]:
        """Run questions up to their first tokens; those with more to say, and their rows."""
        ready = [self._ready.popleft() for _ in range(min(places, len(self._ready)))]
        if not ready:
            return [], []
        try:
            rows, logits = self._runtime.prefill_rows(
                [each.tail for each in ready], [each.prefix for each in ready]
            )
            came = [self._begin(each) for each in ready]
            self._choose(came, logits)
        except Exception as error:
            _LOG.exception("prefill failed")
            for each in ready:
                self._close_job(each.job, error)
            return [], []
        going = [(live, row) for live, row in zip(came, rows, strict=True) if not live.over]
        return [live for live, _ in going], [row for _, row in going]

    def _begin(self, ready: _Ready) -> _Live:
        question = ready.job.question
        seed = secrets.randbits(64) if question.seed is None else question.seed
        return _Live(
            ready,
            Transcript(self._runtime.chat.decode, question.stops),
            np.random.default_rng(seed),
            time.monotonic() - ready.job.arrived,
        )

    def _step(self) -> None:
        began = time.monotonic()
        logits = self._batch.step(np.array([live.token for live in self._live], np.int64))
        self._choose(self._live, logits)
        spent = time.monotonic() - began
        self._owed -= spent
        self.metrics.step.observe(spent)

    def _choose(self, rows: list[_Live], logits: NDArray[np.float32]) -> None:
        likeliest = logits.argmax(-1).tolist()
        for place, live in enumerate(rows):
            if live.over:
                continue
            token, options = likeliest[place], live.ready.job.question.sampling
            if options.temperature:
                tokens, _ = pick(logits[place : place + 1], options, [live.rng])
                token = int(tokens[0])
            self._accept(live, token)

    def _accept(self, live: _Live, token: int) -> None:
        live.token = token
        if token in self._runtime.chat.eos_ids:
            self._end(live, "stop")
            return
        live.transcript.add(token)
        self.metrics.tokens.inc()
        if live.transcript.stopped:
            self._end(live, "stop")
        elif not live.left:
            self._end(live, "length")
        elif live.ready.job.question.stream and (text := live.transcript.unsent()):
            live.ready.job.tell(Piece(text))

    # -- ends -------------------------------------------------------------------------------------

    def _end(self, live: _Live, finish: str) -> None:
        live.over = True
        transcript, ready = live.transcript, live.ready
        transcript.finish()
        usage = Usage(
            ready.prefix.length + len(ready.tail), ready.prefix.length, len(transcript.token_ids)
        )
        unsent = transcript.unsent(last=True)
        self._close_job(ready.job, Answer(transcript.text, unsent, finish, usage, live.waited))

    def _drop_cancelled(self) -> None:
        for _ in range(len(self._ready)):
            ready = self._ready.popleft()
            if ready.job.cancelled:
                usage = Usage(ready.prefix.length + len(ready.tail), ready.prefix.length, 0)
                self._close_job(ready.job, Answer("", "", "cancelled", usage, 0.0))
            else:
                self._ready.append(ready)

    def _fail(self, error: Exception) -> None:
        for live in self._live:
            self._close_job(live.ready.job, error)
        self._live, self._batch = [], LiveBatch(self._runtime.engine)
        self.metrics.running.set(0)

    def _close_job(self, job: Job, end: Answer | Exception) -> None:
        if job.ended:
            return
        job.ended = True
        with self._lock:
            self._pending -= 1
            self.metrics.pending.set(self._pending)
        job.tell(end)


def _check_room(wanted: int | None, room: int) -> None:
    if wanted is not None and wanted > room:
        raise PromptError(
            got=f"max_tokens {wanted}",
            expected=f"at most {room}, which the model's limit leaves after this prompt",
            fix="ask for fewer tokens, or shorten the prompt",
        )
