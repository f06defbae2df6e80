"""A language model of softmax attention layers with a functional state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from engines.errors import ModelError
from engines.families.operators import (
    attend,
    last_positions,
    rms_norm,
    rotate,
    vocabulary_logits,
)
from engines.families.parts import Head, State, attention_bias
from engines.state import StateTensor, key_value

Angles = tuple[torch.Tensor, torch.Tensor]


def sectioned_axes(sections: Sequence[int]) -> tuple[int, ...]:
    """Which axis every rotary frequency turns by: the sections' frequencies one after another
    (Qwen2-VL, arXiv 2409.12191, section 2.1)."""
    return tuple(section % 3 for section, count in enumerate(sections) for _ in range(count))


def interleaved_axes(sections: Sequence[int], count: int) -> tuple[int, ...]:
    """Which axis every one of `count` rotary frequencies turns by: time, height and width in
    turn for as long as their sections last, then time (Qwen3-VL)."""
    axes = [0] * count
    for axis in (1, 2):
        for index in range(axis, min(3 * sections[axis], count), 3):
            axes[index] = axis
    return tuple(axes)


class AttentionDecoder(nn.Module):
    """Llama-like layers, with norms of queries and keys where the model has them.

    See `Parts` for shapes. `axes` says for every rotary frequency which row of the position ids
    it reads; without mrope all read row 0. `stacked` is how many features follow the embedding
    in each row of the input, to be added after the first layers (DeepStack, arXiv 2406.04334).
    """

    inv_freq: torch.Tensor
    axes: torch.Tensor

    def __init__(self, text: Any, lm_head: Any, axes: Sequence[int], stacked: int = 0) -> None:
        super().__init__()
        check_attention(text)
        self.lm_head = lm_head
        self.stacked, self.width = stacked, text.config.hidden_size
        self.scaling = text.rotary_emb.attention_scaling
        inv_freq = text.rotary_emb.inv_freq.detach().float().clone()
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("axes", torch.tensor(axes), persistent=False)
        self.final = RmsNorm(text.norm)
        self.layers = nn.ModuleList(AttentionLayer(layer) for layer in text.layers)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        state: State,
        logits_to_keep: int | torch.Tensor = 0,
        head: Head = vocabulary_logits,
    ) -> tuple[torch.Tensor, State]:
        rows = inputs_embeds.split(self.width, dim=-1) if self.stacked else (inputs_embeds,)
        hidden, *added = rows
        bias = attention_bias(attention_mask, hidden, state[0].shape[2])
        angles = rotary_angles(position_ids, self.axes, self.inv_freq, self.scaling, hidden.dtype)
        new_state: list[torch.Tensor] = []
        for index, layer in enumerate(self.layers):
            hidden, *pair = layer(hidden, angles, bias, state[2 * index], state[2 * index + 1])
            new_state += pair
            if index < len(added):
                hidden = hidden + added[index]
        kept = self.final(last_positions(hidden, logits_to_keep))
        return head(kept, self.lm_head.weight), tuple(new_state)


def rotary_angles(
    position_ids: torch.Tensor,
    axes: torch.Tensor,
    inv_freq: torch.Tensor,
    scaling: float,
    dtype: torch.dtype,
) -> Angles:
    """cos and sin (batch, length, rotated / 2) of positions (3, batch, length); `axes` (rotated /
    2,) says which row each frequency reads."""
    chosen = position_ids.to(torch.float32)[axes].permute(1, 2, 0)
    angles = chosen * inv_freq
    return (angles.cos() * scaling).to(dtype), (angles.sin() * scaling).to(dtype)


class AttentionLayer(nn.Module):
    """Attention and an MLP, each behind its norm and added to the residual."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.net, self.mlp = layer.self_attn, layer.mlp
        self.before = RmsNorm(layer.input_layernorm)
        self.between = RmsNorm(layer.post_attention_layernorm)
        self.query_norm, self.key_norm = (
            RmsNorm(getattr(self.net, name)) if hasattr(self.net, name) else nn.Identity()
            for name in ("q_norm", "k_norm")
        )

    def forward(
        self,
        hidden: torch.Tensor,
        angles: Angles,
        bias: torch.Tensor,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        net, normed = self.net, self.before(hidden)
        batch, length, _ = hidden.shape
        query, key, value = (
            project(normed).view(batch, length, -1, net.head_dim)
            for project in (net.q_proj, net.k_proj, net.v_proj)
        )
        query = rotate(self.query_norm(query), *angles)
        key = rotate(self.key_norm(key), *angles)
        mixed, keys, values = attend(query, key, value, past_keys, past_values, bias, net.scaling)
        hidden = hidden + net.o_proj(mixed.reshape(batch, length, -1))
        return hidden + self.mlp(self.between(hidden)), keys, values


class RmsNorm(nn.Module):
    """A root mean square norm of the model, with its own weight."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


def attention_state(text: Any) -> tuple[StateTensor, ...]:
    """Keys and values of every layer, in the layers' order."""
    groups = text.config.num_key_value_heads
    return tuple(
        tensor
        for index, layer in enumerate(text.layers)
        for tensor in key_value(index, groups, layer.self_attn.head_dim)
    )


def check_attention(text: Any) -> None:
    """Raise ModelError for what the layers here would silently compute otherwise."""
    config = text.config
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ModelError(
            got=f"a model whose attention slides over a window of {config.sliding_window} tokens",
            expected="full attention in every layer",
            fix="set use_sliding_window to false in config.json, if the model allows it",
        )
    kind = text.rotary_emb.rope_type
    if "dynamic" in kind or kind == "longrope":
        raise ModelError(
            got=f"a model whose rotary frequencies depend on the length (rope_type '{kind}')",
            expected="fixed frequencies, such as rope_type 'default', 'linear' or 'yarn'",
            fix="set another rope_type in config.json, if the model allows it",
        )
