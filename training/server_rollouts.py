"""Rollouts from a vLLM server that serves the untouched model: the picture goes with every prompt.

vLLM's log-probabilities are those of the model itself, before temperature (its default,
`--logprobs-mode raw_logprobs`), so that answers are drawn at temperature 1 or greedily. Seeds make
a server's answers repeatable as far as its batching does not change their rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from engines.chat import Chat
from engines.errors import ServerError
from engines.picture import encode_picture
from engines.sampling import Sample, SamplingOptions, Seed
from engines.vllm_http import DOCUMENT
from engines.vllm_server import ServerOptions, VllmServer
from training.rollouts import Rollouts

VLLM = VllmServer.name


class ServerRollouts(VllmServer, Rollouts):
    """Answers of at most `max_new_tokens`, `options.parallel` requests at once."""

    def __init__(self, options: ServerOptions, chat: Chat, max_new_tokens: int) -> None:
        super().__init__(options, chat)
        self.max_new_tokens = max_new_tokens

    def draw(
        self,
        pixels: np.ndarray | None,
        prompts: Sequence[str],
        options: SamplingOptions,
        seeds: Sequence[Sequence[Seed]],
    ) -> list[list[Sample]]:
        png = None if pixels is None else encode_picture(pixels, None)
        sampling = {"top_p": options.top_p, "top_k": options.top_k, "min_p": 0.0}
        bodies = [
            self.request(prompt, png, self.max_new_tokens)
            | sampling
            | {"temperature": options.temperature, "logprobs": True, "seed": _number(seed)}
            for prompt, row in zip(prompts, seeds, strict=True)
            for seed in row
        ]
        lengths = [len(self.prompt_ids(prompt, png is not None)) for prompt in prompts]
        pool = ThreadPoolExecutor(max(1, min(self.options.parallel, len(bodies))), "rollout")
        try:
            drawn = list(pool.map(self._sample, bodies))
        finally:
            # After a failure, or Ctrl-C, what has not been sent is not sent any more.
            pool.shutdown(cancel_futures=True)
        count = len(seeds[0])
        groups = [drawn[first : first + count] for first in range(0, len(drawn), count)]
        for length, group in zip(lengths, groups, strict=True):
            self._check_seen(length, [seen for seen, _ in group])
        return [[one for _, one in group] for group in groups]

    def close(self) -> None:
        """A server goes on without us."""

    def _sample(self, body: dict[str, Any]) -> tuple[int, Sample]:
        """How many tokens of prompt the server saw, and its answer."""
        answer = self._answer(body)
        if not answer.token_ids or len(answer.token_ids) != len(answer.logprobs):
            raise ServerError(
                got=f"an answer with {len(answer.token_ids)} token ids and "
                f"{len(answer.logprobs)} log-probabilities",
                expected="both, for every generated token",
                fix=f"use vLLM 0.10.2 or newer; {DOCUMENT} says how to start it",
            )
        done = answer.completion
        return answer.prompt_tokens, Sample(
            answer.token_ids, answer.logprobs, done.finished, done.text
        )

    def _check_seen(self, expected: int, seen: Sequence[int]) -> None:
        other = [count for count in seen if count != expected]
        if other:
            raise ServerError(
                got=f"a server that saw {other[0]} prompt tokens",
                expected=f"the {expected} of this chat",
                fix="serve the model with its own chat template and without options that resize "
                f"pictures; {DOCUMENT} lists them",
            )


def _number(seed: Seed) -> int:
    """One number for a seed, as a request takes it."""
    return int(np.random.SeedSequence(list(seed)).generate_state(1)[0])
