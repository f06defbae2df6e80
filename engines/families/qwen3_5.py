"""Qwen3.5: Gated DeltaNet and full attention layers in turn, and a vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from engines.families.operators import (
    attend,
    causal_conv,
    gated_delta_rule,
    grouped_attention,
    last_positions,
    rms_norm,
    rotate,
    vocabulary_logits,
)
from engines.families.parts import Parts, State, Vision, attention_bias, unit_length
from engines.layout import PictureLayout, suitable_size
from engines.state import StateTensor, conv_recurrent, key_value


def picture_layout(config: Any, size: int | None) -> PictureLayout:
    """The layout of a square picture of `size` pixels, or of the usual size."""
    vision = config.vision_config
    unit = vision.patch_size * vision.spatial_merge_size
    return PictureLayout(
        size=suitable_size(size, unit),
        unit=unit,
        image_token_id=config.image_token_id,
        end_token_id=config.vision_end_token_id,
    )


def make_parts(model: Any, layout: PictureLayout) -> Parts:
    """The parts of a Qwen3_5ForConditionalGeneration for square pictures."""
    return Parts(
        vision=Tower(model.model.visual, layout.size),
        embed=model.model.language_model.embed_tokens,
        decoder=Decoder(model.model.language_model, model.lm_head),
        state=state_of(model.config.text_config),
        layout=layout,
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
        # Both halves of a head turn by the same angles, on every row of the batch.
        half = cos.shape[-1] // 2
        self.register_buffer("cos", cos[None, :, :half].clone(), persistent=False)
        self.register_buffer("sin", sin[None, :, :half].clone(), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        projection = self.tower.patch_embed.proj
        patches = self.patches(pixels).to(projection.weight.dtype)
        hidden = F.linear(patches, projection.weight.flatten(1), projection.bias)
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
        query, key, value = qkv.unbind(2)
        query, key = rotate(query, self.cos, self.sin), rotate(key, self.cos, self.sin)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
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
        self.lm_head = lm_head
        rotary, config = text.rotary_emb, text.config
        self.scaling = rotary.attention_scaling
        inv_freq = rotary.inv_freq.detach().float().clone()
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        axes = torch.zeros(len(inv_freq), dtype=torch.int64)
        for axis, section in enumerate(rotary.mrope_section[1:], start=1):
            axes[axis : section * 3 : 3] = axis
        self.register_buffer("axes", axes, persistent=False)
        self.kinds = tuple(config.layer_types)
        self.final = _Norm(text.norm)
        self.layers = nn.ModuleList(
            _Attention(layer) if kind == "full_attention" else _DeltaNet(layer)
            for kind, layer in zip(self.kinds, text.layers, strict=True)
        )

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        state: State,
        logits_to_keep: int | torch.Tensor = 0,
    ) -> tuple[torch.Tensor, State]:
        length = inputs_embeds.shape[1]
        context = _Context(
            angles=self._angles(position_ids, inputs_embeds.dtype),
            bias=attention_bias(attention_mask, inputs_embeds, self._past(state)),
            visible=None if attention_mask is None else attention_mask[:, -length:, None],
        )
        hidden, new_state = inputs_embeds, []
        for index, layer in enumerate(self.layers):
            hidden, *pair = layer(hidden, context, state[2 * index], state[2 * index + 1])
            new_state += pair
        kept = self.final(last_positions(hidden, logits_to_keep))
        return vocabulary_logits(kept, self.lm_head.weight), tuple(new_state)

    def _past(self, state: State) -> int:
        return next(
            state[2 * index].shape[2]
            for index, kind in enumerate(self.kinds)
            if kind == "full_attention"
        )

    def _angles(
        self, position_ids: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin (batch, length, rotary_dim / 2): every frequency has its mrope axis."""
        chosen = position_ids.to(torch.float32)[self.axes].permute(1, 2, 0)
        angles = chosen * self.inv_freq
        return (angles.cos() * self.scaling).to(dtype), (angles.sin() * self.scaling).to(dtype)


@dataclass(frozen=True)
class _Context:
    """What all layers share in one pass: rotary cos and sin, the attention bias, and (batch,
    length, 1) that is 0 for padding, or None."""

    angles: tuple[torch.Tensor, torch.Tensor]
    bias: torch.Tensor
    visible: torch.Tensor | None


class _Norm(nn.Module):
    """Qwen3_5RMSNorm, whose weight is stored as the difference from 1."""

    weight: torch.Tensor

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.eps = norm.eps
        self.register_buffer("weight", 1.0 + norm.weight.detach().float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


class _Layer(nn.Module):
    """A mixer and an MLP, each behind its norm and added to the residual."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.mlp = layer.mlp
        self.before, self.between = (
            _Norm(layer.input_layernorm),
            _Norm(layer.post_attention_layernorm),
        )

    def forward(
        self, hidden: torch.Tensor, context: _Context, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mixed, first, second = self.mix(self.before(hidden), context, first, second)
        hidden = hidden + mixed
        return hidden + self.mlp(self.between(hidden)), first, second

    def mix(
        self, hidden: torch.Tensor, context: _Context, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The mixer's output and its two new state tensors."""
        raise NotImplementedError


class _Attention(_Layer):
    """Gated full attention; its state is keys and values."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.net = layer.self_attn
        self.query_norm, self.key_norm = _Norm(self.net.q_norm), _Norm(self.net.k_norm)

    def mix(
        self, hidden: torch.Tensor, context: _Context, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        net, (batch, length, _) = self.net, hidden.shape
        dim = net.head_dim
        query, gate = net.q_proj(hidden).view(batch, length, -1, 2 * dim).chunk(2, dim=-1)
        key = self.key_norm(net.k_proj(hidden).view(batch, length, -1, dim))
        value = net.v_proj(hidden).view(batch, length, -1, dim)
        query, key = rotate(self.query_norm(query), *context.angles), rotate(key, *context.angles)
        mixed, keys, values = attend(query, key, value, first, second, context.bias, net.scaling)
        mixed = (mixed * torch.sigmoid(gate)).reshape(batch, length, -1)
        return net.o_proj(mixed), keys, values


class _DeltaNet(_Layer):
    """Gated DeltaNet; its state is the convolution's last inputs and the recurrent matrix."""

    decay: torch.Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.net = layer.linear_attn
        decay = -self.net.A_log.detach().float().exp()
        self.register_buffer("decay", decay, persistent=False)

    def mix(
        self, hidden: torch.Tensor, context: _Context, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        net = self.net
        if context.visible is not None:
            hidden = hidden * context.visible.to(hidden.dtype)
        batch, length, _ = hidden.shape
        mixed, conv = causal_conv(net.in_proj_qkv(hidden).transpose(1, 2), net.conv1d.weight, first)
        widths = (net.key_dim, net.key_dim, net.value_dim)
        query, key, value = mixed.transpose(1, 2).split(widths, dim=-1)
        query, key = (
            unit_length(x.reshape(batch, length, net.num_k_heads, net.head_k_dim))
            for x in (query, key)
        )
        if (repeat := net.num_v_heads // net.num_k_heads) > 1:
            query, key = query.repeat_interleave(repeat, 2), key.repeat_interleave(repeat, 2)
        value = value.reshape(batch, length, net.num_v_heads, net.head_v_dim)
        log_decay = self.decay * F.softplus(net.in_proj_a(hidden).float() + net.dt_bias)
        beta = net.in_proj_b(hidden).sigmoid()
        output, recurrent = gated_delta_rule(query, key, value, log_decay, beta, second)
        gate = net.in_proj_z(hidden).view(batch, length, net.num_v_heads, net.head_v_dim)
        output = rms_norm(output, net.norm.weight, net.norm.variance_epsilon)
        output = (output * F.silu(gate.float())).to(hidden.dtype)
        return net.out_proj(output.reshape(batch, length, -1)), conv, recurrent
