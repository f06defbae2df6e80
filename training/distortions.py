"""What other people's pipelines do to a picture, done to it in training, so that it survives.

Each takes a picture of whole numbers, fp32 (size, size, 3) in 0..255, and gives one back. Where an
operation has a useful gradient (resizing, cropping) it is used; where not (JPEG, rounding) the
gradient passes through unchanged (Shin and Song, "JPEG-resistant adversarial images", 2017, use
an approximation of JPEG; the identity is enough here, since the true JPEG is what is seen).
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from engines.names import choose
from training.picture import round_through, to_pixels

Distortion = Callable[[torch.Tensor, random.Random], torch.Tensor]
QUALITY = (70, 95)
"""Of JPEG; 75 is PIL's own."""
SMALLEST = 0.75
"""Share of its side that a picture may be shrunk to."""
BORDER = 1 / 16
"""Share of the side that may be cropped off each edge."""
LEVELS = 4.0
"""Greatest standard deviation of noise."""


def jpeg(picture: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Through a JPEG file of some quality and back."""
    return _straight_through(picture, jpeg_pixels(to_pixels(picture), rng.randint(*QUALITY)))


def resize(picture: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Shrunk, and brought back to its size."""
    size = picture.shape[0]
    small = round(size * rng.uniform(SMALLEST, 1.0))
    return round_through(_scaled(round_through(_scaled(picture, small)), size))


def crop(picture: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Without some of its edges, and brought back to its size."""
    size = picture.shape[0]
    top, bottom, left, right = (round(size * rng.uniform(0, BORDER)) for _ in range(4))
    kept = picture[top : size - bottom, left : size - right]
    return round_through(_scaled(kept, size))


def noise(picture: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """With noise on every pixel."""
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    added = torch.randn(picture.shape, generator=generator).to(picture.device)
    return round_through(picture + rng.uniform(0, LEVELS) * added)


DISTORTIONS: dict[str, Distortion] = {
    "crop": crop,
    "jpeg": jpeg,
    "noise": noise,
    "resize": resize,
}


def check_distortions(names: Sequence[str]) -> None:
    """OptionError, with "did you mean", for the first unknown name."""
    for name in names:
        choose("distortion", name, DISTORTIONS)


def distorted(picture: torch.Tensor, names: Sequence[str], seed: int, step: int) -> torch.Tensor:
    """One of the distortions `names`, or none, drawn anew for every step; whole numbers."""
    rng = random.Random(f"distortion/{seed}/{step}")
    name = rng.choice([None, *names])
    return picture if name is None else DISTORTIONS[name](picture, rng)


def jpeg_pixels(pixels: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (size, size, 3) as a JPEG file of that quality gives it back."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))


def _straight_through(picture: torch.Tensor, pixels: np.ndarray) -> torch.Tensor:
    seen = torch.from_numpy(pixels.astype(np.float32)).to(picture.device)
    return seen + (picture - picture.detach())


def _scaled(picture: torch.Tensor, size: int) -> torch.Tensor:
    channels_first = picture.permute(2, 0, 1)[None]
    scaled = F.interpolate(
        channels_first, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return scaled[0].permute(1, 2, 0)
