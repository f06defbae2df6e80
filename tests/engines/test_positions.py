"""mrope positions against Hugging Face's get_rope_index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.positions import mrope_positions, text_positions


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_mrope_positions(tiny_model_dir: Path, grid: int) -> None:
    from engines.model import ModelSource, load_model

    model = load_model(ModelSource("tiny", tiny_model_dir))
    image = model.config.image_token_id
    ids = [7, 8, 9, *[image] * grid * grid, 10]
    types = (torch.tensor([ids]) == image).int()
    whole = torch.tensor([[*ids, 11, 12]])
    expected, _ = model.model.get_rope_index(
        whole,
        torch.cat([types, torch.zeros(1, 2, dtype=torch.int32)], 1),
        torch.tensor([[1, 2 * grid, 2 * grid]]),
    )
    found, following = mrope_positions(ids, image, grid)
    np.testing.assert_array_equal(found, expected[:, 0, : len(ids)].numpy())
    assert following == int(expected[0, 0, len(ids)])


def test_no_tokens() -> None:
    found, following = mrope_positions([], 1, 8)
    assert found.shape == (3, 0)
    assert following == 0


def test_text_positions() -> None:
    found = text_positions(np.array([4, 9]), 3)
    assert found.shape == (3, 2, 3)
    np.testing.assert_array_equal(found[2], [[4, 5, 6], [9, 10, 11]])
