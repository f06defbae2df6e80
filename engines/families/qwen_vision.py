"""What the vision towers of the Qwen families share.

A picture's size is fixed when the parts are made, so position embeddings, rotary angles and
attention windows are constants, and patches stay in the processor's order throughout.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from engines.families.operators import grouped_attention, rotate
from engines.families.parts import Vision
from engines.layout import PictureLayout, suitable_size

Colour = tuple[float, float, float]


def qwen_picture_layout(config: Any, size: int | None) -> PictureLayout:
    """The layout of a square picture of `size` pixels, or of the usual size."""
    vision = config.vision_config
    unit = vision.patch_size * vision.spatial_merge_size
    return PictureLayout(
        size=suitable_size(size, unit),
        unit=unit,
        image_token_id=config.image_token_id,
        end_token_id=config.vision_end_token_id,
    )


class QwenTower(Vision):
    """uint8 or float pixels (n, size, size, 3) in 0..255 -> visual tokens (n, tokens, width).

    Normalisation and patches are part of it, so that a swap binds raw RGB bytes. `mean` and `std`
    are those of the family's processor, of colours in 0..1.
    """

    mean: ClassVar[Colour] = (0.5, 0.5, 0.5)
    std: ClassVar[Colour] = (0.5, 0.5, 0.5)
    cos: torch.Tensor
    sin: torch.Tensor
    places: torch.Tensor | None
    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(self, tower: Any, size: int) -> None:
        super().__init__()
        config = tower.config
        self.tower = tower
        self.patch, self.merge = config.patch_size, config.spatial_merge_size
        self.temporal = config.temporal_patch_size
        self.cells = size // self.patch // self.merge
        grid = torch.tensor([[1, size // self.patch, size // self.patch]])
        with torch.no_grad():
            positions = get_vision_position_ids(grid, self.merge)
            cos, sin = tower.rotary_pos_emb(positions, positions)
            places = self.position_embeddings(grid)
        # Both halves of a head turn by the same angles, on every row of the batch.
        half = cos.shape[-1] // 2
        self.register_buffer("cos", cos[None, :, :half].clone(), persistent=False)
        self.register_buffer("sin", sin[None, :, :half].clone(), persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("centre", torch.tensor(self.mean), persistent=False)
        self.register_buffer("spread", torch.tensor(self.std), persistent=False)

    def position_embeddings(self, grid: torch.Tensor) -> torch.Tensor | None:
        """What is added to the patches (patches, width) of a picture of `grid` (1, 3), if any."""
        return None

    def bias(self, block: int) -> torch.Tensor | None:
        """What is added to the attention scores of a block, (1, 1, patches, patches), if any."""
        return None

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised patches (n, patches, 3 * temporal * patch^2), in the processor's order.

        The patches of one visual token follow each other, and a still picture is repeated along
        the temporal axis.
        """
        n, cells, merge, patch = pixels.shape[0], self.cells, self.merge, self.patch
        image = (pixels.to(torch.float32) * (1 / 255) - self.centre) / self.spread
        # Eight axes at most, of which TensorRT has no more: pictures and rows of cells share one.
        image = image.reshape(n * cells, merge, patch, cells, merge, patch, 3)
        image = image.permute(0, 3, 1, 4, 6, 2, 5).unsqueeze(5)
        image = image.expand(-1, -1, -1, -1, -1, self.temporal, -1, -1)
        return image.reshape(n, (cells * merge) ** 2, -1)

    def embedded(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the first block reads, (n, patches, width)."""
        projection = self.tower.patch_embed.proj
        patches = self.patches(pixels).to(projection.weight.dtype)
        hidden = F.linear(patches, projection.weight.flatten(1), projection.bias)
        return hidden if self.places is None else hidden + self.places.to(hidden.dtype)

    def block(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, patches, width) after the block of that number."""
        block = self.tower.blocks[index]
        mixed = self._attention(block.attn, self.norm(block.norm1, hidden), self.bias(index))
        hidden = hidden + mixed
        after: torch.Tensor = hidden + block.mlp(self.norm(block.norm2, hidden))
        return after

    def norm(self, norm: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """One of the tower's norms, applied over the last axis."""
        normed: torch.Tensor = norm(hidden)
        return normed

    def joined(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, patches, width) -> (n, tokens, merge^2 * width)."""
        return hidden.reshape(hidden.shape[0], self.cells**2, -1)

    def _attention(
        self, attention: Any, hidden: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        n, length, width = hidden.shape
        query, key, value = (
            x.reshape(n, length, attention.num_heads, -1)
            for x in attention.qkv(hidden).chunk(3, dim=-1)
        )
        cos, sin = self.cos.to(hidden.dtype), self.sin.to(hidden.dtype)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        mixed = grouped_attention(query, key, value, bias, attention.scaling)
        projected: torch.Tensor = attention.proj(mixed.transpose(1, 2).reshape(n, length, width))
        return projected


def learned_places(tower: Any, grid: torch.Tensor) -> torch.Tensor:
    """A tower's table of position embeddings, resampled to `grid` (1, 3): (patches, width)."""
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=tower.num_grid_per_side,
        mode=tower.interpolation_mode,
        align_corners=tower.interpolation_align_corners,
        spatial_merge_size=tower.config.spatial_merge_size,
    )
    table = tower.pos_embed.weight
    indices, weights = indices.to(table.device), weights.to(table.device)
    places: torch.Tensor = (tower.pos_embed(indices) * weights[:, :, None]).sum(1)
    return places
