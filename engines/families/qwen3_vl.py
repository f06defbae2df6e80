"""Qwen3-VL: features of several depths of the vision tower reach the decoder (DeepStack)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from engines.families.attention_decoder import (
    AttentionDecoder,
    attention_state,
    interleaved_axes,
)
from engines.families.parts import Parts
from engines.families.qwen_vision import QwenTower, learned_places, qwen_picture_layout
from engines.layout import PictureLayout


def picture_layout(config: Any, size: int | None) -> PictureLayout:
    """The layout of a square picture of `size` pixels, or of the usual size."""
    return qwen_picture_layout(config, size)


def make_parts(model: Any, layout: PictureLayout) -> Parts:
    """The parts of a Qwen3VLForConditionalGeneration for square pictures."""
    text, depths = (
        model.model.language_model,
        len(model.config.vision_config.deepstack_visual_indexes),
    )
    rotary = text.rotary_emb
    axes = interleaved_axes(rotary.mrope_section, len(rotary.inv_freq))
    return Parts(
        vision=Tower(model.model.visual, layout.size),
        embed=Embedding(text.embed_tokens, depths),
        decoder=AttentionDecoder(text, model.lm_head, axes, stacked=depths),
        state=attention_state(text),
        layout=layout,
    )


class Tower(QwenTower):
    """Visual tokens followed, in each row, by the features of every DeepStack depth."""

    def position_embeddings(self, grid: torch.Tensor) -> torch.Tensor:
        return learned_places(self.tower, grid)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tower, hidden = self.tower, self.embedded(pixels)
        depths = list(tower.deepstack_visual_indexes)
        features = []
        for index in range(len(tower.blocks)):
            hidden = self.block(index, hidden)
            if index in depths:
                merger = tower.deepstack_merger_list[depths.index(index)]
                features.append(_merge(merger, merger.norm(self.joined(hidden))))
        tokens = _merge(tower.merger, self.joined(tower.merger.norm(hidden)))
        return torch.cat((tokens, *features), dim=-1)


def _merge(merger: Any, joined: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = merger.linear_fc2(merger.act_fn(merger.linear_fc1(joined)))
    return tokens


class Embedding(nn.Module):
    """Token embeddings followed by zeros where a picture has its DeepStack features."""

    def __init__(self, embed_tokens: Any, depths: int) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.padding = depths * embed_tokens.embedding_dim

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return F.pad(self.embed_tokens(input_ids), (0, self.padding))
