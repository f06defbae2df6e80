"""Sampling over any engine, with seeds: every answer has a random generator of its own, so that it
does not depend on what shares its batch, as far as the engine's arithmetic does not either.

Prompts are prefilled once, however many answers are drawn to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import OptionError
from engines.prefix import PrefixState
from engines.runtime import Prefilled, Runtime

Seed = Sequence[int]
"""Whole numbers >= 0 that name one answer, such as (seed, step, prompt, number of the answer)."""


@dataclass(frozen=True)
class SamplingOptions:
    """temperature: 0 takes the likeliest token. top_k: of how many likeliest to choose, 0 for all.
    top_p: choose among the likeliest that together have this probability."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("temperature", 0 <= self.temperature < float("inf"), "a number from 0 up"),
            ("top_k", self.top_k >= 0, "a whole number from 0 up"),
            ("top_p", 0 < self.top_p <= 1, "a share above 0, at most 1"),
        ):
            if not fits:
                raise OptionError(
                    got=f"{name} = {getattr(self, name)}",
                    expected=wanted,
                    fix=f"give another {name}",
                )


@dataclass(frozen=True)
class Sample:
    """One answer.

    token_ids: with the token that ended it, if `finished`. logprobs: natural logarithms of their
    probabilities as the engine saw them at the temperature of sampling (1 where that is 0), before
    top_k and top_p. text: without special tokens.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool
    text: str


def sample(
    runtime: Runtime,
    tails: Sequence[Sequence[int]],
    prefixes: Sequence[PrefixState],
    max_new_tokens: int,
    options: SamplingOptions,
    seeds: Sequence[Sequence[Seed]],
) -> list[list[Sample]]:
    """Answers to every prompt: one to tails[i] after prefixes[i] for each of seeds[i], the same
    number for all."""
    counts = {len(row) for row in seeds}
    if len(counts) != 1:
        raise ValueError(f"one number of answers to every prompt, not {sorted(counts)}")
    count = counts.pop()
    prefilled = _repeat(runtime, runtime.prefill(tails, prefixes), count)
    rngs = [np.random.default_rng(list(seed)) for row in seeds for seed in row]
    drawn = _draw(runtime, prefilled, max_new_tokens, options, rngs)
    return [drawn[first : first + count] for first in range(0, len(drawn), count)]


def pick(
    logits: NDArray[np.float32], options: SamplingOptions, rngs: Sequence[np.random.Generator]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Tokens (batch,) for logits (batch, vocabulary), and their log-probabilities (batch,)."""
    scaled = logits.astype(np.float64) / (options.temperature or 1.0)
    scaled -= scaled.max(axis=-1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
    if options.temperature == 0:
        tokens = logits.argmax(axis=-1).astype(np.int64)
    else:
        shares = np.exp(_narrowed(scaled, options))
        # One uniform number a token and row, and the inverse of the distribution function.
        ends = shares.cumsum(axis=-1)
        marks = np.array([rng.random() for rng in rngs]) * ends[:, -1]
        found = (ends <= marks[:, None]).sum(axis=-1)
        tokens = np.minimum(found, logits.shape[-1] - 1).astype(np.int64)
    return tokens, np.take_along_axis(scaled, tokens[:, None], axis=-1)[:, 0]


def _narrowed(logprobs: NDArray[np.float64], options: SamplingOptions) -> NDArray[np.float64]:
    """-inf for what top_k and top_p leave out; the likeliest always stays."""
    if not options.top_k and options.top_p == 1.0:
        return logprobs
    order = np.argsort(-logprobs, axis=-1, kind="stable")
    ranked = np.take_along_axis(logprobs, order, axis=-1)
    before = np.exp(ranked).cumsum(axis=-1) - np.exp(ranked)
    kept = before < options.top_p
    if options.top_k:
        kept[:, options.top_k :] = False
    kept[:, 0] = True
    narrowed = np.full_like(logprobs, -np.inf)
    np.put_along_axis(narrowed, order, np.where(kept, ranked, -np.inf), axis=-1)
    return narrowed


def _repeat(runtime: Runtime, prefilled: Prefilled, count: int) -> Prefilled:
    if count == 1:
        return prefilled
    engine = runtime.engine
    arrays: list[NDArray[Any]] = [
        np.repeat(array, count, axis=0) for array in engine.dump_state(prefilled.state)
    ]
    return Prefilled(
        engine.load_state(arrays),
        np.repeat(prefilled.mask, count, axis=0),
        np.repeat(prefilled.positions, count, axis=0),
        np.repeat(prefilled.logits, count, axis=0),
    )


def _draw(
    runtime: Runtime,
    prefilled: Prefilled,
    max_new_tokens: int,
    options: SamplingOptions,
    rngs: Sequence[np.random.Generator],
) -> list[Sample]:
    chat, rows = runtime.chat, range(len(rngs))
    stepper = runtime.engine.stepper(
        prefilled.state, prefilled.mask, prefilled.positions, max(max_new_tokens - 1, 0)
    )
    tokens: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    open_rows, logits = set(rows), prefilled.logits
    for step in range(max_new_tokens):
        chosen, chances = pick(logits, options, rngs)
        for row in sorted(open_rows):
            tokens[row].append(int(chosen[row]))
            logprobs[row].append(float(chances[row]))
            if tokens[row][-1] in chat.eos_ids:
                open_rows.remove(row)
        if not open_rows or step + 1 == max_new_tokens:
            break
        logits = stepper.step(chosen)
    return [
        Sample(tuple(tokens[row]), tuple(logprobs[row]), row not in open_rows, text)
        for row in rows
        for text in [chat.decode([t for t in tokens[row] if t not in chat.eos_ids])]
    ]
