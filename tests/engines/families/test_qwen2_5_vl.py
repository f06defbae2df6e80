"""Qwen2.5-VL: windows of the vision tower."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.vision_utils import get_vision_window_index

from engines.errors import ModelError
from engines.families import load_parts, picture_layout
from engines.families.qwen2_5_vl import Tower
from engines.model import ModelSource
from engines.reference import Reference
from tests.models import tiny_model
from tests.real_configs import real_config


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tiny_model("qwen2_5_vl", tmp_path_factory.mktemp("tiny") / "model")
    return Reference(ModelSource("tiny", folder))


def _windows(size: int, window: int) -> torch.Tensor:
    """Which window each patch is in, in the processor's order, by Hugging Face's own function."""
    grid = torch.tensor([[1, size // 14, size // 14]])
    order, ends = get_vision_window_index(grid, 2, window, 14)
    numbers = torch.bucketize(torch.arange(int(ends[-1])), ends[1:].long(), right=True)
    tokens = torch.empty(len(order), dtype=torch.int64)
    tokens[order] = numbers.view(-1, 4)[:, 0]
    return tokens.repeat_interleave(4)


@pytest.mark.parametrize("window", [56, 112])
@pytest.mark.parametrize("size", [56, 84, 112, 140, 224, 252])
def test_windows(
    reference: Reference, size: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower: Any = reference.model.model.visual
    monkeypatch.setattr(tower, "window_size", window)
    bias, numbers = Tower(tower, size).bias(0), _windows(size, window)
    together = numbers[:, None] == numbers[None, :]
    if bias is None:
        assert together.all()
    else:
        assert torch.equal(bias[0, 0] == 0, together)
        assert (bias[0, 0][~together] < -1e30).all()


def test_full_attention_blocks_have_no_windows(reference: Reference) -> None:
    tower = Tower(reference.model.model.visual, 84)
    assert tower.bias(0) is not None
    assert tower.bias(1) is None


@torch.inference_mode()
@pytest.mark.parametrize("size", [28, 56, 112, 140, 252])
def test_visual_tokens_at_other_sizes(reference: Reference, size: int) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    parts = load_parts(reference.model, size)
    found = parts.vision(torch.from_numpy(pixels)[None])[0]
    assert len(found) == parts.picture_tokens == (size // 28) ** 2
    np.testing.assert_allclose(found.numpy(), reference.vision(pixels), atol=2e-5)


def test_gradients_reach_every_pixel(reference: Reference) -> None:
    pixels = torch.rand(1, 84, 84, 3).mul(255).requires_grad_()
    load_parts(reference.model, 84).vision(pixels).square().sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad != 0).float().mean() > 0.99


@pytest.mark.parametrize(("size", "tokens"), [(None, 81), (252, 81), (224, 64)])
def test_pictures_of_the_real_model(size: int | None, tokens: int) -> None:
    assert picture_layout(real_config("Qwen2.5-VL-3B"), size).tokens == tokens


def test_a_size_that_is_no_whole_number_of_tokens() -> None:
    with pytest.raises(ModelError, match=r"256(.|\n)*multiple of 28(.|\n)*--size 252"):
        picture_layout(real_config("Qwen2.5-VL-3B"), 256)
