"""The picture's development, side by side in one image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engines.files import write_bytes

FRAMES = 8
"""How many pictures a strip shows at most."""
GAP = 4
WHITE = 255


class Development:
    """Pictures at even distances from the first to the last, however many there were."""

    def __init__(self) -> None:
        self._frames: list[np.ndarray] = []
        self._last: np.ndarray | None = None
        self._seen, self._stride = 0, 1

    def add(self, pixels: np.ndarray) -> None:
        """The next picture, uint8 (size, size, 3)."""
        if self._seen % self._stride == 0:
            self._frames.append(pixels)
        if len(self._frames) > 2 * FRAMES:
            self._frames, self._stride = self._frames[::2], 2 * self._stride
        self._last = pixels
        self._seen += 1

    def write(self, path: Path) -> None:
        """The first, the last and some between as a PNG; nothing if there is none."""
        if self._last is None:
            return
        frames = list(self._frames)
        if not np.array_equal(frames[-1], self._last):
            frames.append(self._last)
        places = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
        size = self._last.shape[0]
        strip = np.full((size, len(places) * (size + GAP) - GAP, 3), WHITE, np.uint8)
        for number, place in enumerate(places):
            left = number * (size + GAP)
            strip[:, left : left + size] = frames[place]
        buffer = io.BytesIO()
        Image.fromarray(strip).save(buffer, "PNG")
        write_bytes(path, buffer.getvalue())

    def state(self) -> dict[str, Any]:
        """Everything, as tensors and plain values."""
        last = None if self._last is None else torch.from_numpy(self._last)
        frames = [torch.from_numpy(frame) for frame in self._frames]
        return {"frames": frames, "last": last, "seen": self._seen, "stride": self._stride}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._frames = [frame.numpy() for frame in state["frames"]]
        self._last = None if state["last"] is None else state["last"].numpy()
        self._seen, self._stride = state["seen"], state["stride"]
