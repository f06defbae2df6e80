"""Pictures that nobody trained, to tell what a picture does by merely being there."""

from __future__ import annotations

import numpy as np


def control_pictures(size: int, seed: int) -> dict[str, np.ndarray]:
    """name -> uint8 (size, size, 3): plain grey, uniform noise, and drawn artwork."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return {
        "grey": np.full((size, size, 3), 128, dtype=np.uint8),
        "noise": noise,
        "artwork": artwork(size),
    }


def artwork(size: int) -> np.ndarray:
    """A sunset over waves, uint8 (size, size, 3): smooth areas, edges and texture."""
    down, across = np.mgrid[0:size, 0:size] / size
    sky = np.stack([0.35 + 0.6 * down, 0.2 + 0.45 * down, 0.55 - 0.25 * down], axis=-1)
    wave = 0.06 * np.sin(40 * across + 9 * np.sin(25 * down)) * down
    sea = np.stack([0.1 + wave, 0.25 + wave + 0.2 * (1 - down), 0.45 + 2 * wave], axis=-1)
    picture = np.where((down > 0.62)[..., None], sea, sky)
    sun = (across - 0.5) ** 2 + (down - 0.5) ** 2 < 0.03
    picture[sun & (down <= 0.62)] = (1.0, 0.85, 0.4)
    levels: np.ndarray = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
    return levels
