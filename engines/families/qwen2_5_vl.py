"""Qwen2.5-VL: as Qwen2-VL, with attention within windows in most blocks of the vision tower."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engines.families import qwen2_vl
from engines.families.operators import rms_norm
from engines.families.parts import Parts
from engines.families.qwen_vision import qwen_picture_layout
from engines.layout import PictureLayout


def picture_layout(config: Any, size: int | None) -> PictureLayout:
    """The layout of a square picture of `size` pixels, or of the usual size."""
    return qwen_picture_layout(config, size)


def make_parts(model: Any, layout: PictureLayout) -> Parts:
    """The parts of a Qwen2_5_VLForConditionalGeneration for square pictures."""
    return qwen2_vl.sectioned_parts(model, layout, Tower(model.model.visual, layout.size))


class Tower(qwen2_vl.Tower):
    """Windows are a constant bias: attention does not depend on the order of the patches, so they
    need not be brought together as Hugging Face does."""

    windows: torch.Tensor | None

    def __init__(self, tower: Any, size: int) -> None:
        super().__init__(tower, size)
        self.register_buffer("windows", self._windows(), persistent=False)

    def bias(self, block: int) -> torch.Tensor | None:
        return None if block in self.tower.fullatt_block_indexes else self.windows

    def norm(self, norm: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, norm.weight, norm.variance_epsilon)  # type: ignore[arg-type]

    def _windows(self) -> torch.Tensor | None:
        """0 between patches of one window, the lowest number else; None for a single window."""
        side = self.tower.window_size // self.merge // self.patch
        if self.cells <= side:
            return None
        line = torch.arange(self.cells) // side
        window = line[:, None] * self.cells + line[None, :]
        window = window.flatten().repeat_interleave(self.merge**2)
        dtype = self.tower.patch_embed.proj.weight.dtype
        apart = (window[:, None] != window[None, :])[None, None]
        return torch.zeros(apart.shape, dtype=dtype).masked_fill(apart, torch.finfo(dtype).min)
