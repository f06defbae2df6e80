"""What a request asks of the engine, and what it is told while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from engines.sampling import SamplingOptions


@dataclass(frozen=True)
class Question:
    """What is to be answered, checked for form already.

    art: the picture's name, None for the bare model. max_new_tokens: None for as many as fit.
    seed: of the random numbers; None for a new one. stops: sequences that end the answer. stream:
    whether pieces are wanted as they come.
    """

    art: str | None
    prompt: str
    max_new_tokens: int | None = None
    sampling: SamplingOptions = field(default_factory=lambda: SamplingOptions(temperature=0.0))
    seed: int | None = None
    stops: tuple[str, ...] = ()
    stream: bool = False


@dataclass(frozen=True)
class Usage:
    """Tokens: of the context, how many of these came from a stored state, and of the answer."""

    prompt: int
    cached: int
    completion: int


@dataclass(frozen=True)
class Piece:
    """New text of an answer that is not at its end."""

    text: str


@dataclass(frozen=True)
class Answer:
    """The end of an answer. text: all of it. unsent: what no piece had. finish: why it ended,
    "stop" or "length". waited: seconds before the first token was computed."""

    text: str
    unsent: str
    finish: str
    usage: Usage
    waited: float


Event = Piece | Answer | Exception


@dataclass(eq=False)
class Job:
    """A question on its way. `tell` is called from the engine's thread and must not block; after
    an Answer or an exception (`ended`) it is not called again. Set `cancelled` to give it up."""

    question: Question
    tell: Callable[[Event], None]
    cancelled: bool = False
    ended: bool = False
    arrived: float = field(default_factory=time.monotonic)
