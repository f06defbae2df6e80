"""SmolVLM: a SigLIP tower, a pixel shuffle, and a Llama decoder."""

from __future__ import annotations

from typing import Any

import torch

from engines.errors import ModelError
from engines.families.attention_decoder import AttentionDecoder, attention_state
from engines.families.operators import grouped_attention
from engines.families.parts import Parts, Vision
from engines.layout import PictureLayout, suitable_size

OPENING = "<fake_token_around_image><global-img>"
CLOSING = "<fake_token_around_image>"


def picture_layout(config: Any, size: int | None) -> PictureLayout:
    """The layout of a square picture of `size` pixels; None: the size the tower was trained on.

    SmolVLM's processor enlarges every picture and cuts it into tiles unless it is told not to:
    do_resize=False, do_image_splitting=False and max_image_size={"longest_edge": size} make it
    hand on one tile, bit for bit, for any size.
    """
    vision, scale = config.vision_config, config.scale_factor
    unit, own = vision.patch_size * scale, vision.image_size
    # A tower's own size may leave a few pixels over at the right and the lower edge: 384 is 27
    # patches of 14. They are seen by nobody.
    if size in (None, own) and own // vision.patch_size % scale == 0:
        size = own
    else:
        size = suitable_size(size, unit, usual=own)
    return PictureLayout(
        size=size,
        unit=unit,
        image_token_id=config.image_token_id,
        opening=OPENING,
        closing=CLOSING,
        mrope=False,
    )


def make_parts(model: Any, layout: PictureLayout) -> Parts:
    """The parts of a SmolVLMForConditionalGeneration for square pictures.

    Raises:
        ModelError: its text model is no Llama, or one that `AttentionDecoder` does not compute.
    """
    text = model.model.text_model
    if text.config.model_type != "llama":
        raise ModelError(
            got=f"a SmolVLM with a text model of type '{text.config.model_type}'",
            expected="one with a text model of type 'llama', as the published ones have",
            fix="use a SmolVLM2 model as it was published",
        )
    # Llama's positions have one axis, the first row of the position ids.
    one_axis = [0] * len(text.rotary_emb.inv_freq)
    return Parts(
        vision=Tower(model.model.vision_model, model.model.connector, layout.size),
        embed=text.embed_tokens,
        decoder=AttentionDecoder(text, model.lm_head, one_axis),
        state=attention_state(text),
        layout=layout,
    )


class Tower(Vision):
    """uint8 or float pixels (n, size, size, 3) in 0..255 -> visual tokens (n, tokens, hidden).

    Normalisation is part of it, so that a swap binds raw RGB bytes. Position embeddings depend on
    the size alone and are a constant.
    """

    places: torch.Tensor

    def __init__(self, tower: Any, connector: Any, size: int) -> None:
        super().__init__()
        self.tower, self.connector = tower, connector
        embeddings = tower.embeddings
        side = size // embeddings.patch_size
        self.scale = connector.scale_factor
        self.cells = side // self.scale
        table = embeddings.position_embedding
        with torch.no_grad():
            taken = _places(side, embeddings.num_patches_per_side)
            places = table(taken.to(table.weight.device))
        self.register_buffer("places", places, persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        projection = self.tower.embeddings.patch_embedding
        image = _normalised(pixels).to(projection.weight.dtype)
        hidden = projection(image).flatten(2).transpose(1, 2) + self.places
        for layer in self.tower.encoder.layers:
            hidden = hidden + self._attention(layer.self_attn, layer.layer_norm1(hidden))
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        return self._shuffle(self.tower.post_layernorm(hidden))

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixel_values of each picture alone, (n, 1, 1, 3, size, size): SmolVLM's processor cuts
        no patches, and counts conversations and their pictures."""
        return _normalised(pixels)[:, None, None]

    def _attention(self, attention: Any, hidden: torch.Tensor) -> torch.Tensor:
        n, length, width = hidden.shape
        query, key, value = (
            project(hidden).view(n, length, attention.num_heads, -1).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = grouped_attention(query, key, value, None, attention.scale)
        projected: torch.Tensor = attention.out_proj(
            mixed.transpose(1, 2).reshape(n, length, width)
        )
        return projected

    def _shuffle(self, hidden: torch.Tensor) -> torch.Tensor:
        """scale x scale patches side by side become one token, row by row."""
        n, cells, scale = hidden.shape[0], self.cells, self.scale
        blocks = hidden.reshape(n, cells, scale, cells, scale, -1).transpose(2, 3)
        tokens: torch.Tensor = self.connector.modality_projection(
            blocks.reshape(n, cells * cells, -1)
        )
        return tokens


def _normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, size, size) with 0..255 mapped to -1..1 (mean and std 0.5).

    transformers takes a picture that is 0 all over for padding and drops it: 127.5 in each
    channel, which no 8-bit picture has.
    """
    image = (pixels.to(torch.float32) * (1 / 255) - 0.5) / 0.5
    return image.permute(0, 3, 1, 2)


def _places(side: int, trained: int) -> torch.Tensor:
    """Which of the trained x trained position embeddings each of side x side patches takes.

    Computed in fp32 with transformers' own boundaries: where a patch lies on one, rounding
    decides, and the model has been trained with that decision.
    """
    boundaries = torch.arange(1 / trained, 1.0, 1 / trained, dtype=torch.float32)
    step = 1.0 / torch.tensor(side)
    starts = (torch.arange(side, dtype=torch.float32) * step).clamp(max=1.0 - 1e-6)
    line = torch.bucketize(starts, boundaries, right=True)
    return (line[:, None] * trained + line).flatten()
