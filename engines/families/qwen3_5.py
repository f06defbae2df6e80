"""Qwen3.5: Gated DeltaNet and full attention layers in turn, and a vision tower."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from engines.families.operators import (
    causal_conv,
    gated_delta_rule,
    last_positions,
    vocabulary_logits,
)
from engines.families.parts import (
    Parts,
    State,
    Vision,
    attention_bias,
    grouped_attention,
    rotate,
    unit_length,
)
from engines.state import StateTensor, conv_recurrent, key_value


def make_parts(model: Any, picture_size: int) -> Parts:
    """The parts of a Qwen3_5ForConditionalGeneration for square pictures of `picture_size`."""
    vision = model.config.vision_config
    grid = picture_size // (vision.patch_size * vision.spatial_merge_size)
    return Parts(
        vision=Tower(model.model.visual, picture_size),
        embed=model.model.language_model.embed_tokens,
        decoder=Decoder(model.model.language_model, model.lm_head),
        state=state_of(model.config.text_config),
        picture_size=picture_size,
        picture_tokens=grid * grid,
        image_token_id=model.config.image_token_id,
        grid=grid,
    )


def state_of(config: Any) -> tuple[StateTensor, ...]:
    """The state's tensors, two a layer, in the layers' order."""
    tensors: list[StateTensor] = []
    for index, kind in enumerate(config.layer_types):
        if kind == "full_attention":
            tensors += key_value(index, config.num_key_value_heads, config.head_dim)
        else:
            heads, dk, dv = (
                config.linear_num_value_heads,
                config.linear_key_head_dim,
                config.linear_value_head_dim,
            )
            channels = 2 * config.linear_num_key_heads * dk + heads * dv
            tensors += conv_recurrent(
                index, (channels, config.linear_conv_kernel_dim - 1), (heads, dk, dv)
            )
    return tuple(tensors)


class Tower(Vision):
    """uint8 or float pixels (n, size, size, 3) in 0..255 -> visual tokens (n, tokens, hidden).

    Normalisation and patches are part of it, so that a swap binds raw RGB bytes. Position
    embeddings and rotary angles depend on the size alone and are constants.
    """

    places: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, tower: Any, size: int) -> None:
        super().__init__()
        config = tower.config
        self.tower = tower
        self.patch, self.merge = config.patch_size, config.spatial_merge_size
        self.temporal = config.temporal_patch_size
        self.cells = size // self.patch // self.merge
        grid = torch.tensor([[1, size // self.patch, size // self.patch]])
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=self.merge,
        )
        with torch.no_grad():
            places = (tower.pos_embed(indices) * weights[:, :, None]).sum(1)
            cos, sin = tower.rotary_pos_emb(places, get_vision_position_ids(grid, self.merge))
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        projection = self.tower.patch_embed.proj
        hidden = F.linear(self.patches(pixels), projection.weight.flatten(1), projection.bias)
        hidden = hidden + self.places
        for block in self.tower.blocks:
            hidden = hidden + self._attention(block.attn, block.norm1(hidden))
            hidden = hidden + block.mlp(block.norm2(hidden))
        return self._merge(hidden)

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised patches (n, patches, 3 * temporal * patch^2), in the processor's order.

        Qwen's processor maps 0..255 to -1..1 (mean and std 0.5) and repeats a still picture
        along the temporal axis.
        """
        n, cells, merge, patch = pixels.shape[0], self.cells, self.merge, self.patch
        image = (pixels.to(torch.float32) * (1 / 255) - 0.5) / 0.5
        image = image.reshape(n, cells, merge, patch, cells, merge, patch, 3)
        image = image.permute(0, 1, 4, 2, 5, 7, 3, 6).unsqueeze(6)
        image = image.expand(-1, -1, -1, -1, -1, -1, self.temporal, -1, -1)
        return image.reshape(n, (cells * merge) ** 2, -1)

    def _attention(self, attention: Any, hidden: torch.Tensor) -> torch.Tensor:
        n, length, width = hidden.shape
        qkv = attention.qkv(hidden).view(n, length, 3, attention.num_heads, -1)
        query, key, value = (x.transpose(1, 2) for x in qkv.unbind(2))
        query, key = rotate(query, self.cos, self.sin), rotate(key, self.cos, self.sin)
        mixed = grouped_attention(query, key, value, None, attention.scaling)
        mixed = mixed.transpose(1, 2).reshape(n, length, width)
        projected: torch.Tensor = attention.proj(mixed)
        return projected

    def _merge(self, hidden: torch.Tensor) -> torch.Tensor:
        merger = self.tower.merger
        joined = merger.norm(hidden).reshape(hidden.shape[0], self.cells**2, -1)
        tokens: torch.Tensor = merger.linear_fc2(merger.act_fn(merger.linear_fc1(joined)))
        return tokens


class Decoder(nn.Module):
    """The language model with a functional state; see `Parts` for shapes."""

    inv_freq: torch.Tensor
    axes: torch.Tensor

    def __init__(self, text: Any, lm_head: Any) -> None:
        super().__init__()
        self.text, self.lm_head = text, lm_head
        rotary, config = text.rotary_emb, text.config
        self.scaling = rotary.attention_scaling
        self.register_buffer("inv_freq", rotary.inv_freq.detach().clone(), persistent=False)
        axes = torch.zeros(len(rotary.inv_freq), dtype=torch.int64)
        for axis, section in enumerate(rotary.mrope_section[1:], start=1):
            axes[axis : section * 3 : 3] = axis
        self.register_buffer("axes", axes, persistent=False)
        self.kinds = tuple(config.layer_types)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        state: State,
        logits_to_keep: int | torch.Tensor = 0,
    ) -> tuple[torch.Tensor, State]:
        length = inputs_embeds.shape[1]
        total = length + self._past(state)
        bias = attention_bias(attention_mask, length, total)
        angles = self._angles(position_ids)
        visible = None if attention_mask is None else attention_mask[:, -length:, None]
        hidden, new_state = inputs_embeds, []
        for index, layer in enumerate(self.text.layers):
            first, second = state[2 * index], state[2 * index + 1]
            normed = layer.input_layernorm(hidden)
            if self.kinds[index] == "full_attention":
                mixed, *pair = self._attend(layer.self_attn, normed, angles, bias, first, second)
            else:
                mixed, *pair = _remember(layer.linear_attn, normed, visible, first, second)
            hidden = hidden + mixed
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            new_state += pair
        kept = self.text.norm(last_positions(hidden, logits_to_keep))
        return vocabulary_logits(kept, self.lm_head.weight), tuple(new_state)

    def _past(self, state: State) -> int:
        return next(
            state[2 * index].shape[2]
            for index, kind in enumerate(self.kinds)
            if kind == "full_attention"
        )

    def _angles(self, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin (batch, 1, length, rotary_dim): every frequency has its mrope axis."""
        chosen = position_ids.to(torch.float32)[self.axes].permute(1, 2, 0)
        half = chosen * self.inv_freq
        angles = torch.cat((half, half), dim=-1)[:, None]
        return angles.cos() * self.scaling, angles.sin() * self.scaling

    def _attend(
        self,
        attention: Any,
        hidden: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        bias: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch, length, _ = hidden.shape
        dim = attention.head_dim
        query, gate = attention.q_proj(hidden).view(batch, length, -1, 2 * dim).chunk(2, dim=-1)
        query = attention.q_norm(query).transpose(1, 2)
        key = attention.k_norm(attention.k_proj(hidden).view(batch, length, -1, dim))
        value = attention.v_proj(hidden).view(batch, length, -1, dim).transpose(1, 2)
        query, key = rotate(query, *angles), rotate(key.transpose(1, 2), *angles)
        keys, values = torch.cat((keys, key), dim=2), torch.cat((values, value), dim=2)
        mixed = grouped_attention(query, keys, values, bias, attention.scaling).transpose(1, 2)
        mixed = (mixed * torch.sigmoid(gate)).reshape(batch, length, -1)
        return attention.o_proj(mixed), keys, values


def _remember(
    net: Any,
    hidden: torch.Tensor,
    visible: torch.Tensor | None,
    conv: torch.Tensor,
    recurrent: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A Gated DeltaNet layer; `visible` (batch, length, 1) is 0 for padding at the left end."""
    if visible is not None:
        hidden = hidden * visible.to(hidden.dtype)
    batch, length, _ = hidden.shape
    mixed, conv = causal_conv(net.in_proj_qkv(hidden).transpose(1, 2), net.conv1d.weight, conv)
    query, key, value = mixed.transpose(1, 2).split(
        (net.key_dim, net.key_dim, net.value_dim), dim=-1
    )
    query, key = (
        unit_length(x.reshape(batch, length, net.num_k_heads, net.head_k_dim)) for x in (query, key)
    )
    if (repeat := net.num_v_heads // net.num_k_heads) > 1:
        query, key = query.repeat_interleave(repeat, 2), key.repeat_interleave(repeat, 2)
    value = value.reshape(batch, length, net.num_v_heads, net.head_v_dim)
    log_decay = -net.A_log.float().exp() * F.softplus(net.in_proj_a(hidden).float() + net.dt_bias)
    beta = net.in_proj_b(hidden).sigmoid()
    output, recurrent = gated_delta_rule(query, key, value, log_decay, beta, recurrent)
    gate = net.in_proj_z(hidden).reshape(batch, length, net.num_v_heads, net.head_v_dim)
    output = net.norm(output, gate).reshape(batch, length, -1)
    return net.out_proj(output), conv, recurrent
