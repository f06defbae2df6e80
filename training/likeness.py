"""What holds a picture to its start beside the ball: two terms of the loss, on the difference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

CELL = 8
"""Pixels a side of the squares whose mean colour the low-frequency term keeps."""


@dataclass(frozen=True)
class Likeness:
    """Weights of the terms, each 0 for none, with colours in 0..1.

    variation: of the total variation of the difference from the start (Rudin, Osher and Fatemi,
    1992), its mean absolute step between neighbours: less grain. low: of the mean square of the
    difference after averaging over squares of CELL pixels: seen from afar, the same picture.
    """

    variation: float = 0.0
    low: float = 0.0

    def penalty(self, picture: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """The weighted sum for pictures (size, size, 3) in 0..255; no shape."""
        difference = (picture - start) / 255
        value = picture.new_zeros(())
        if self.variation:
            value = value + self.variation * total_variation(difference)
        if self.low:
            value = value + self.low * low_frequency(difference)
        return value


def total_variation(picture: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference between neighbours of (size, size, 3), down and across."""
    down = (picture[1:] - picture[:-1]).abs().mean()
    across = (picture[:, 1:] - picture[:, :-1]).abs().mean()
    return down + across


def low_frequency(picture: torch.Tensor) -> torch.Tensor:
    """Mean square of (size, size, 3) averaged over squares of CELL pixels a side."""
    cell = min(CELL, picture.shape[0])
    pooled = F.avg_pool2d(picture.permute(2, 0, 1)[None], cell)
    return pooled.square().mean()
