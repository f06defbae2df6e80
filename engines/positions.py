"""Positions of tokens: on the three axes of multimodal rotary embeddings (mrope), or on one.

Every decoder takes three rows; one without mrope reads the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mrope_positions(
    input_ids: Sequence[int], image_token_id: int, grid: int
) -> tuple[NDArray[np.int64], int]:
    """Positions of a prefix with at most one picture, and the position after it.

    Text has the same number on all three axes. A picture of grid x grid tokens at position p has
    p for time, p + row for height and p + column for width, and the text after it goes on at
    p + grid (Qwen2-VL, arXiv 2409.12191, section 2.1).

    Returns:
        positions int64 (3, length) in the order time, height, width; the next position.
    """
    rows: list[tuple[int, int, int]] = []
    position = seen = 0
    for token in input_ids:
        if token == image_token_id:
            row, column = divmod(seen, grid)
            rows.append((position, position + row, position + column))
            seen += 1
            position += grid if seen == grid * grid else 0
        else:
            rows.append((position,) * 3)
            position += 1
    return np.array(rows, dtype=np.int64).reshape(-1, 3).T.copy(), position


def linear_positions(length: int) -> NDArray[np.int64]:
    """Positions int64 (3, length) that count every token, pictures' too."""
    return np.tile(np.arange(length, dtype=np.int64), (3, 1))


def text_positions(start: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Positions int64 (3, batch, length) of text whose rows start at `start` (batch,)."""
    rows = start[:, None] + np.arange(length, dtype=np.int64)
    return np.broadcast_to(rows, (3, *rows.shape)).copy()
