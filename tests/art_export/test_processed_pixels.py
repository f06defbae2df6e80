"""Back from what every family's image processor makes to the picture's own bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from art_export.processed_pixels import ProcessedPixels
from engines.errors import PictureError
from tests.models import TINY


@pytest.fixture(params=sorted(TINY))
def processed(request: pytest.FixtureRequest, tmp_path: Path) -> ProcessedPixels:
    tiny = TINY[request.param]
    tiny.processor().save_pretrained(tmp_path)
    return ProcessedPixels(tmp_path, tiny.size)


def _pictures(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_every_byte_comes_back(processed: ProcessedPixels) -> None:
    pictures = _pictures(3, processed.size)
    made = [processed.processor.processed(pixels) for pixels in pictures]
    values = torch.cat([each["pixel_values"] for each in made])
    grids = [each["image_grid_thw"] for each in made if "image_grid_thw" in each]
    found = processed.pixels(values, torch.cat(grids) if grids else None)
    assert np.array_equal(found, pictures)


def test_a_resized_picture_is_refused(processed: ProcessedPixels) -> None:
    """It has the right number of values, but they are between the levels of 8 bits."""
    size = processed.size
    values = processed.processor.processed(_pictures(1, size)[0])["pixel_values"]
    with pytest.raises(PictureError, match="not those of 8-bit"):
        processed.pixels((values + values.roll(1, -1)) / 2)


def test_another_size_is_refused(processed: ProcessedPixels) -> None:
    values = processed.processor.processed(_pictures(1, processed.size)[0])["pixel_values"]
    with pytest.raises(PictureError, match=f"{processed.size}x{processed.size}"):
        processed.pixels(values.flatten()[:-1])


def test_another_shape_of_as_many_patches_is_refused(tmp_path: Path) -> None:
    TINY["qwen3_5"].processor().save_pretrained(tmp_path)
    processed = ProcessedPixels(tmp_path, 64)
    wide = Image.fromarray(np.zeros((32, 128, 3), np.uint8))
    made = processed.processor._inner(images=wide, return_tensors="pt")
    with pytest.raises(PictureError, match="image_grid_thw"):
        processed.pixels(made["pixel_values"], made["image_grid_thw"])
