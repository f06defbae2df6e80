"""An engine's state as `transformers` handles a cache, and the prefill that starts it.

No padding ever enters the model: rows with the same number of tokens are prefilled together, equal
rows once, and shorter rows are lengthened by masked keys and values at the left end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engines.contract import DecoderInput, Engine, Floats, Ints, Stepper
from engines.layout import PictureLayout
from engines.positions import text_positions
from engines.prefix import PrefixState


@dataclass(frozen=True, eq=False)
class Row:
    """What one row of a batch adds to its start.

    input_ids (length,); features: visual tokens (pictures, tokens, width) that stand, in order, at
    the placeholders; positions (3, length); following: the position of the next token.
    """

    start: PrefixState
    input_ids: Ints
    features: Floats | None
    positions: Ints
    following: int

    @property
    def length(self) -> int:
        """Tokens of the whole row, its start included."""
        return self.start.length + len(self.input_ids)

    @property
    def content(self) -> tuple[int, bytes, bytes]:
        """Equal for rows that the decoder cannot tell apart."""
        seen = b"" if self.features is None else self.features.tobytes()
        return id(self.start), self.input_ids.tobytes(), seen


def chat_positions(layout: PictureLayout, input_ids: Ints) -> tuple[Ints, int]:
    """Positions (3, length) of a chat with any number of pictures, and the next position."""
    places = np.flatnonzero(input_ids == layout.image_token_id)
    ends = places[layout.tokens - 1 :: layout.tokens] + 1
    pieces, following = [], 0
    for piece in np.split(input_ids, ends):
        positions, length = layout.prefix_positions(piece.tolist())
        pieces.append(positions + following)
        following += length
    return np.concatenate(pieces, axis=1), following


def embedded(
    engine: Engine, image_token_id: int, input_ids: Ints, features: Sequence[Floats | None]
) -> Floats:
    """Embeddings (batch, length, width) with visual tokens, in order, at the placeholders.

    Args:
        features: (pictures, tokens, width), or None for no picture, of every row.
    """
    embeddings = engine.embed(input_ids)
    for row, seen in enumerate(features):
        if seen is not None:
            if not embeddings.flags.writeable:
                embeddings = embeddings.copy()
            embeddings[row, input_ids[row] == image_token_id] = seen.reshape(-1, seen.shape[-1])
    return embeddings


class EngineCache:
    """The state of a batch. `GenerationMixin` asks for its length, reorders it for beam search and
    hands it from one `forward` to the next; only the engine reads what is in it.

    Args:
        steps: when rows are never reordered and nobody keeps the cache, how many single tokens
            will follow the prefill at most; the engine then decodes without a copy a step.
    """

    is_compileable = False

    def __init__(self, engine: Engine, layout: PictureLayout, steps: int = 0) -> None:
        self._engine, self._layout, self._steps = engine, layout, steps
        self._state: Any = None
        self._stepper: Stepper | None = None
        self._mask: Ints = np.zeros((0, 0), np.int64)
        self._positions: Ints = np.zeros(0, np.int64)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens so far, padding included."""
        return int(self._mask.shape[1])

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Let row i go on from what was row beam_idx[i]."""
        chosen = beam_idx.cpu().numpy()
        if np.array_equal(chosen, np.arange(len(self._mask))):
            return
        arrays = self._engine.dump_state(self._state)
        self._state = self._engine.load_state([array[chosen] for array in arrays])
        self._mask, self._positions = self._mask[chosen], self._positions[chosen]

    def start(self, rows: Sequence[Row], width: int, logits_to_keep: int) -> Floats:
        """Prefill a batch -> logits (batch, kept, vocabulary), zeros for padding.

        Args:
            width: tokens of the longest row with its padding.
        """
        unique = {row.content: row for row in rows}
        places = {content: place for place, content in enumerate(unique)}
        arrays, logits = self._prefill(list(unique.values()), width, logits_to_keep)
        chosen = [places[row.content] for row in rows]
        self._state = self._engine.load_state([array[chosen] for array in arrays])
        lengths = np.array([row.length for row in rows])
        self._mask = (np.arange(width) >= width - lengths[:, None]).astype(np.int64)
        self._positions = np.array([row.following for row in rows], np.int64)
        return logits[chosen]

    def extend(
        self, input_ids: Ints, features: Sequence[Floats | None], logits_to_keep: int
    ) -> Floats:
        """Append tokens (batch, length) -> logits (batch, kept, vocabulary)."""
        if input_ids.shape[1] == 1 and self._steps:
            return self._step(input_ids[:, 0])[:, None]
        counted = [chat_positions(self._layout, ids) for ids in input_ids]
        positions = np.stack([row for row, _ in counted], axis=1) + self._positions[:, None]
        self._mask = np.pad(self._mask, ((0, 0), (0, input_ids.shape[1])), constant_values=1)
        embeddings = embedded(self._engine, self._layout.image_token_id, input_ids, features)
        inputs = DecoderInput(embeddings, self._mask, positions, logits_to_keep)
        logits, self._state = self._engine.decode(inputs, self._state)
        self._positions = self._positions + np.array([length for _, length in counted])
        return logits

    def _step(self, tokens: Ints) -> Floats:
        if self._stepper is None:
            self._stepper = self._engine.stepper(
                self._state, self._mask, self._positions, self._steps
            )
        return self._stepper.step(tokens)

    def _prefill(
        self, rows: Sequence[Row], width: int, keep: int
    ) -> tuple[list[NDArray[Any]], Floats]:
        """The state's arrays of all rows, and logits (rows, kept, vocabulary)."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault((row.start.length, len(row.input_ids)), []).append(index)
        arrays: list[list[NDArray[Any]]] = [[] for _ in self._engine.state]
        logits: list[Floats] = []
        for members in groups.values():
            states, found = self._prefill_equal([rows[index] for index in members], keep)
            for kept, state, spec in zip(arrays, states, self._engine.state, strict=True):
                axis = spec.length_axis
                kept.append(state if axis is None else _lengthened(state, axis, width))
            logits.append(_lengthened(found, 1, min(keep, width) or width))
        # Back from the order of the groups to that of the rows.
        order = np.argsort([index for members in groups.values() for index in members])
        return [np.concatenate(kept)[order] for kept in arrays], np.concatenate(logits)[order]

    def _prefill_equal(
        self, rows: Sequence[Row], keep: int
    ) -> tuple[tuple[NDArray[Any], ...], Floats]:
        input_ids = np.stack([row.input_ids for row in rows])
        features = [row.features for row in rows]
        starts = [
            np.concatenate(arrays)
            for arrays in zip(*(row.start.arrays for row in rows), strict=True)
        ]
        inputs = DecoderInput(
            embedded(self._engine, self._layout.image_token_id, input_ids, features),
            np.ones((len(rows), rows[0].length), np.int64),
            np.stack([row.positions for row in rows], axis=1),
            keep,
        )
        logits, state = self._engine.decode(inputs, self._engine.load_state(starts))
        return self._engine.dump_state(state), logits


def text_row(start: PrefixState, input_ids: Ints) -> Row:
    """A row of text that follows a stored state."""
    first = np.array([start.next_position], np.int64)
    positions = text_positions(first, len(input_ids))[:, 0]
    return Row(start, input_ids, None, positions, start.next_position + len(input_ids))


def _lengthened(array: NDArray[Any], axis: int, length: int) -> NDArray[Any]:
    """Zeros at the left end of `axis`, up to `length`."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (length - array.shape[axis], 0)
    return np.pad(array, widths)
