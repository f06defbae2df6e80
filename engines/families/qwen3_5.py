"""Qwen3.5: Gated DeltaNet and full attention layers in turn, and a vision tower."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from engines.families.attention_decoder import interleaved_axes, rotary_angles
from engines.families.operators import (
    attend,
    causal_conv,
    gated_delta_rule,
    last_positions,
    rms_norm,
    rotate,
    vocabulary_logits,
)
from engines.families.parts import Head, Parts, State, attention_bias, unit_length
from engines.families.qwen_vision import QwenTower, learned_places, qwen_picture_layout
from engines.layout import PictureLayout
from engines.state import StateTensor, conv_recurrent, key_value


def picture_layout(config: Any, size: int | None) -> PictureLayout:
    """The layout of a square picture of `size` pixels, or of the usual size."""
    return qwen_picture_layout(config, size)


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


class Tower(QwenTower):
    """uint8 or float pixels (n, size, size, 3) in 0..255 -> visual tokens (n, tokens, hidden)."""

    def position_embeddings(self, grid: torch.Tensor) -> torch.Tensor:
        return learned_places(self.tower, grid)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.embedded(pixels)
        for index in range(len(self.tower.blocks)):
            hidden = self.block(index, hidden)
        merger = self.tower.merger
        joined = self.joined(merger.norm(hidden))
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
        axes = interleaved_axes(rotary.mrope_section, len(inv_freq))
        self.register_buffer("axes", torch.tensor(axes), persistent=False)
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
        head: Head = vocabulary_logits,
    ) -> tuple[torch.Tensor, State]:
        length = inputs_embeds.shape[1]
        context = _Context(
            angles=rotary_angles(
                position_ids, self.axes, self.inv_freq, self.scaling, inputs_embeds.dtype
            ),
            bias=attention_bias(attention_mask, inputs_embeds, self._past(state)),
            visible=None if attention_mask is None else attention_mask[:, -length:, None],
        )
        hidden, new_state = inputs_embeds, []
        for index, layer in enumerate(self.layers):
            hidden, *pair = layer(hidden, context, state[2 * index], state[2 * index + 1])
            new_state += pair
        kept = self.final(last_positions(hidden, logits_to_keep))
        return head(kept, self.lm_head.weight), tuple(new_state)

    def _past(self, state: State) -> int:
        return next(
            state[2 * index].shape[2]
            for index, kind in enumerate(self.kinds)
            if kind == "full_attention"
        )


class _Context(NamedTuple):
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
