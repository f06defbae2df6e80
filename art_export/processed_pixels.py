"""From what a model's image processor makes back to the pixels that it was given.

A processor that leaves a picture's size alone only moves values about and scales each of them, so
it is known by what it does to a few probes, whatever the family's order of patches. A bundle's
vision graph takes the pixels themselves.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import PictureError
from engines.image_processor import ImageProcessor, Pixels

Values = NDArray[np.float32]
BLACK, WHITE = 0, 255
TOLERANCE = 0.25
"""Of the step between two grey levels; what lies between levels comes from a resized picture."""


class ProcessedPixels:
    """Inverts the image processor of a model's or a bundle's folder for pictures of one size."""

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self.processor = ImageProcessor(folder)

    def pixels(self, pixel_values: Any, image_grid_thw: Any = None) -> Pixels:
        """The pictures uint8 (n, size, size, 3) that `pixel_values` were made from, bit for bit.

        Args:
            pixel_values: a tensor as the processor returns it for one or more pictures.
            image_grid_thw: (n, 3), patches along time, height and width, where a family has it.

        Raises:
            PictureError: they come from pictures of another size, or from no 8-bit picture.
        """
        low, _ = self._range
        values = np.asarray(pixel_values.float().cpu(), np.float32)
        grids = None if image_grid_thw is None else image_grid_thw.cpu().tolist()
        if values.size % low.size or (grids and any(grid != self._grid for grid in grids)):
            raise self._wrong(f"pixel_values of shape {values.shape}, image_grid_thw {grids}")
        rows = values.reshape(-1, low.size)
        levels = self._levels(rows)
        found = np.zeros((len(rows), self.size * self.size * 3), np.uint8)
        found[:, self._places] = levels
        # Values that were repeated must agree, and all must lie on the grid of 8-bit levels.
        if not np.abs(self._scaled(rows) - found[:, self._places]).max(initial=0) < TOLERANCE:
            raise self._wrong(
                f"{pixel_values.dtype} pixel_values that are not those of 8-bit pictures"
            )
        return found.reshape(-1, self.size, self.size, 3)

    @cached_property
    def _range(self) -> tuple[Values, Values]:
        """Every value of a black and of a white picture."""
        black, white = (
            self._flat(np.full((self.size, self.size, 3), level, np.uint8))
            for level in (BLACK, WHITE)
        )
        return black, white

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Which of a picture's size * size * 3 bytes each value was made from.

        Pictures whose bytes are the digits of their own index tell.
        """
        index = np.arange(self.size * self.size * 3)
        places = np.zeros(self._range[0].size, np.int64)
        for digit in range(3):
            probe = (index >> 8 * digit & WHITE).astype(np.uint8)
            shown = self._flat(probe.reshape(self.size, self.size, 3))
            places += self._levels(shown[None])[0].astype(np.int64) << 8 * digit
        return places

    @cached_property
    def _grid(self) -> list[int]:
        blank = np.zeros((self.size, self.size, 3), np.uint8)
        grid: list[int] = self.processor.processed(blank)["image_grid_thw"][0].tolist()
        return grid

    def _flat(self, pixels: Pixels) -> Values:
        values: Values = (
            self.processor.processed(pixels)["pixel_values"].float().numpy().reshape(-1)
        )
        return values

    def _scaled(self, rows: Values) -> Values:
        """Values (n, values) in units of grey levels."""
        low, high = self._range
        scaled: Values = (rows - low) / (high - low) * np.float32(WHITE)
        return scaled

    def _levels(self, rows: Values) -> NDArray[np.uint8]:
        return np.rint(self._scaled(rows)).clip(BLACK, WHITE).astype(np.uint8)

    def _wrong(self, got: str) -> PictureError:
        return PictureError(
            got=got,
            expected=f"what the processor makes of 8-bit pictures of {self.size}x{self.size} "
            "pixels, which this bundle was built for",
            fix=f"give fp32 values of pictures of {self.size}x{self.size} pixels, or build with "
            "another --size",
        )
