"""How a model sees a picture of a given size: which tokens stand for it, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.errors import ModelError
from engines.positions import linear_positions, mrope_positions


@dataclass(frozen=True)
class PictureLayout:
    """A square picture of `size` pixels a side as grid * grid visual tokens in a chat.

    unit: pixels a side of one visual token. image_token_id: the placeholder that stands for one.
    opening, closing: what the model's processor writes before and after the placeholders, beyond
    the chat template. end_token_id: the template's token that ends a picture, None where `closing`
    does. mrope: whether height and width have rotary positions of their own.
    """

    size: int
    unit: int
    image_token_id: int
    end_token_id: int | None = None
    opening: str = ""
    closing: str = ""
    mrope: bool = True

    @property
    def grid(self) -> int:
        """Side of the square of visual tokens."""
        return self.size // self.unit

    @property
    def tokens(self) -> int:
        """Visual tokens of one picture."""
        return self.grid * self.grid

    def prefix_positions(self, input_ids: Sequence[int]) -> tuple[NDArray[np.int64], int]:
        """Positions int64 (3, length) of a prefix with at most one picture, and the next one."""
        if self.mrope:
            return mrope_positions(input_ids, self.image_token_id, self.grid)
        return linear_positions(len(input_ids)), len(input_ids)


def suitable_size(size: int | None, unit: int, usual: int = 256) -> int:
    """`size` if pictures of it are cut into whole tokens, else a ModelError; None chooses the
    largest such size up to `usual`."""
    if size is None:
        return max(unit, usual // unit * unit)
    if size < unit or size % unit:
        raise ModelError(
            got=f"a picture size of {size}",
            expected=f"a multiple of {unit}, the pixels of one visual token, so that the model's "
            "processor does not resize it",
            fix=f"use --size {max(unit, round(size / unit) * unit)}",
        )
    return size
