"""Qwen2-VL: full attention in vision tower and decoder, patches of 14 pixels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from engines.families.attention_decoder import AttentionDecoder, attention_state, sectioned_axes
from engines.families.parts import Parts
from engines.families.qwen_vision import Colour, QwenTower, qwen_picture_layout
from engines.layout import PictureLayout


def picture_layout(config: Any, size: int | None) -> PictureLayout:
    """The layout of a square picture of `size` pixels, or of the usual size."""
    return qwen_picture_layout(config, size)


def make_parts(model: Any, layout: PictureLayout) -> Parts:
    """The parts of a Qwen2VLForConditionalGeneration for square pictures."""
    return sectioned_parts(model, layout, Tower(model.model.visual, layout.size))


def sectioned_parts(model: Any, layout: PictureLayout, tower: QwenTower) -> Parts:
    """The parts of a model with a sectioned mrope decoder and the vision tower `tower`."""
    text = model.model.language_model
    axes = sectioned_axes(text.rotary_emb.mrope_section)
    return Parts(
        vision=tower,
        embed=text.embed_tokens,
        decoder=AttentionDecoder(text, model.lm_head, axes),
        state=attention_state(text),
        layout=layout,
    )


class Tower(QwenTower):
    """Blocks of attention to the whole picture; colours normalised as for CLIP."""

    mean: ClassVar[Colour] = (0.48145466, 0.4578275, 0.40821073)
    std: ClassVar[Colour] = (0.26862954, 0.26130258, 0.27577711)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.embedded(pixels)
        for index in range(len(self.tower.blocks)):
            hidden = self.block(index, hidden)
        merger = self.tower.merger
        tokens: torch.Tensor = merger.mlp(self.joined(self.norm(merger.ln_q, hidden)))
        return tokens
