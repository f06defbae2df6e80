"""Greedy generation over any engine: prefill what follows the prefix, then decode.

Rows of one batch may have different pictures and prompts of different lengths. No padding ever
enters the model: prompts of equal length are prefilled together, and shorter rows are lengthened
by masked keys and values at the left end, where recurrent layers have nothing to forget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.chat import Chat
from engines.contract import DecoderInput, Engine
from engines.errors import PromptError
from engines.positions import text_positions
from engines.prefix import PrefixState, empty_prefix, make_prefix, prefix_of_embeddings
from engines.rows import Row, join, part


@dataclass(frozen=True)
class Completion:
    """One answer. `finished`: it ended with an end-of-sequence token (which is left out)."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool


@dataclass(frozen=True, eq=False)
class Prefilled:
    """A batch after prefill: engine state, mask (batch, past), next positions, last logits."""

    state: Any
    mask: NDArray[np.int64]
    positions: NDArray[np.int64]
    logits: NDArray[np.float32]


class Runtime:
    """An engine and a chat format; holds no state between calls."""

    def __init__(self, engine: Engine, chat: Chat) -> None:
        self.engine = engine
        self.chat = chat

    def prefix(self, pixels: NDArray[np.uint8] | None) -> PrefixState:
        """The prefix state of a picture uint8 (size, size, 3), or of none."""
        if pixels is None:
            return empty_prefix(self.engine)
        return self.prefix_from_features(self.engine.vision(pixels[None]))

    def prefix_from_features(self, features: NDArray[np.float32]) -> PrefixState:
        """The prefix state of a picture whose visual tokens are (1, tokens, hidden)."""
        return make_prefix(self.engine, self.chat, features)

    def bare_logits(self) -> NDArray[np.float32]:
        """What `prefix` has as logits (vocabulary,), of the same words without a picture."""
        ids = [each for each in self.chat.prefix_ids() if each != self.chat.image_token_id]
        logits: NDArray[np.float32] = self.tail_logits(ids, self.prefix(None))[-1]
        return logits

    def prefix_from_embeddings(self, embeddings: NDArray[np.float32]) -> PrefixState:
        """The prefix state of a soft prompt: vectors (n, hidden) before the whole chat.

        Raises:
            PromptError: they do not fit the model.
        """
        return prefix_of_embeddings(self.engine, embeddings)

    def generate(
        self,
        prompts: Sequence[str],
        prefixes: Sequence[PrefixState],
        max_new_tokens: int,
        batch_size: int = 32,
    ) -> list[Completion]:
        """Greedy answers; row i follows prefixes[i].

        Raises:
            PromptError: a prompt is empty or, with its answer, does not fit the model.
        """
        tails = [
            self.tail(prompt, prefix, max_new_tokens)
            for prompt, prefix in zip(prompts, prefixes, strict=True)
        ]
        return self.answer(tails, prefixes, max_new_tokens, batch_size)

    def answer(
        self,
        tails: Sequence[Sequence[int]],
        prefixes: Sequence[PrefixState],
        max_new_tokens: int,
        batch_size: int = 32,
    ) -> list[Completion]:
        """Greedy answers to token ids; row i follows prefixes[i]. Raises as `generate`."""
        for tail, prefix in zip(tails, prefixes, strict=True):
            self._check_room(len(tail), prefix, max_new_tokens)
        batch_size = min(batch_size, self.engine.max_batch or batch_size)
        answers: list[Completion] = []
        for start in range(0, len(tails), batch_size):
            rows = slice(start, start + batch_size)
            prefilled = self.prefill(tails[rows], prefixes[rows])
            answers += self._decode(prefilled, max_new_tokens)
        return answers

    def tail(self, prompt: str, prefix: PrefixState, max_new_tokens: int = 0) -> list[int]:
        """Token ids that follow `prefix` for `prompt`."""
        if not prompt.strip():
            raise PromptError(
                got="an empty prompt", expected="some text", fix="give the text to answer"
            )
        ids = self.chat.tail_ids(prompt) if prefix.in_chat else self.chat.full_ids(prompt)
        self._check_room(len(ids), prefix, max_new_tokens)
        return ids

    def _check_room(self, count: int, prefix: PrefixState, max_new_tokens: int) -> None:
        total = prefix.length + count + max_new_tokens
        if total > self.chat.max_length:
            raise PromptError(
                got=f"a prompt of {count} tokens after {prefix.length} that stand before it, "
                f"with {max_new_tokens} to generate: {total} in all",
                expected=f"at most {self.chat.max_length} tokens, the model's limit",
                fix="shorten the prompt or lower --max-new-tokens",
            )

    def tail_logits(self, tail: Sequence[int], prefix: PrefixState) -> NDArray[np.float32]:
        """Logits (length, vocabulary) at every position of one tail."""
        _, logits = self._prefill_equal([tail], [prefix], logits_to_keep=0)
        every: NDArray[np.float32] = logits[0]
        return every

    def prefill(self, tails: Sequence[Sequence[int]], prefixes: Sequence[PrefixState]) -> Prefilled:
        """Run every tail from its prefix, rows of equal lengths together, into one batch."""
        rows, logits = self.prefill_rows(tails, prefixes)
        joined = join(self.engine, rows)
        state = self.engine.load_state(joined.arrays)
        return Prefilled(state, joined.mask, joined.positions, logits)

    def prefill_rows(
        self, tails: Sequence[Sequence[int]], prefixes: Sequence[PrefixState]
    ) -> tuple[list[Row], NDArray[np.float32]]:
        """The same, every row by itself, with the logits (rows, vocabulary) of its next token."""
        groups: dict[tuple[int, int], list[int]] = {}
        for place, (tail, prefix) in enumerate(zip(tails, prefixes, strict=True)):
            groups.setdefault((prefix.length, len(tail)), []).append(place)
        rows: dict[int, tuple[Row, NDArray[np.float32]]] = {}
        for (past, length), members in groups.items():
            arrays, logits = self._prefill_equal(
                [tails[place] for place in members], [prefixes[place] for place in members]
            )
            for index, place in enumerate(members):
                row = Row(
                    part(self.engine, arrays, index, past + length),
                    past + length,
                    prefixes[place].next_position + length,
                )
                rows[place] = row, logits[index, -1]
        ordered = [rows[place] for place in range(len(tails))]
        return [row for row, _ in ordered], np.stack([logits for _, logits in ordered])

    def _prefill_equal(
        self,
        tails: Sequence[Sequence[int]],
        prefixes: Sequence[PrefixState],
        logits_to_keep: int = 1,
    ) -> tuple[tuple[NDArray[Any], ...], NDArray[np.float32]]:
        input_ids = np.array(tails, np.int64)
        batch, length = input_ids.shape
        starts = np.array([prefix.next_position for prefix in prefixes], np.int64)
        # One row's state is loaded as it lies in its file, without a copy.
        arrays = (
            prefixes[0].arrays
            if batch == 1
            else [
                np.concatenate([prefix.arrays[index] for prefix in prefixes])
                for index in range(len(self.engine.state))
            ]
        )
        inputs = DecoderInput(
            self.engine.embed(input_ids),
            np.ones((batch, prefixes[0].length + length), np.int64),
            text_positions(starts, length),
            logits_to_keep,
        )
        logits, state = self.engine.decode(inputs, self.engine.load_state(arrays))
        return self.engine.dump_state(state), logits

    def steps(self, prefilled: Prefilled, count: int) -> Iterator[NDArray[np.float32]]:
        """Logits (batch, vocabulary) of at most `count` greedy steps, each valid until the next."""
        logits = prefilled.logits
        if count:
            yield logits
        stepper = self.engine.stepper(
            prefilled.state, prefilled.mask, prefilled.positions, max(count - 1, 0)
        )
        for _ in range(count - 1):
            logits = stepper.step(logits.argmax(-1).astype(np.int64))
            yield logits

    def _decode(self, prefilled: Prefilled, max_new_tokens: int) -> list[Completion]:
        tokens: list[list[int]] = [[] for _ in prefilled.mask]
        finished = [False] * len(tokens)
        for logits in self.steps(prefilled, max_new_tokens):
            for row, token in enumerate(logits.argmax(-1).tolist()):
                if finished[row]:
                    continue
                if token in self.chat.eos_ids:
                    finished[row] = True
                else:
                    tokens[row].append(token)
            if all(finished):
                break
        return [
            Completion(self.chat.decode(ids), tuple(ids), done)
            for ids, done in zip(tokens, finished, strict=True)
        ]
