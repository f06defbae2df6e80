"""Operations that PyTorch's exporter would unroll or freeze, functional and differentiable.

While a graph is being exported they are opaque operators of the `art` library, which the exporter
turns into one node each; everywhere else they are the plain PyTorch functions below, so that
autograd sees through them. Those with a state take it and return a new one.

Source: Yang, Kautz and Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule"
(arXiv 2412.06464), section 3, with the chunk-wise form of section 3.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK = 64
Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gated delta rule, from the state S_0.

    S_t = exp(g_t) S_{t-1} + beta_t k_t (v_t - exp(g_t) S_{t-1}^T k_t)^T
    o_t = S_t^T q_t / sqrt(dk)

    Args:
        query, key: (batch, length, heads, dk), already of unit length.
        value: (batch, length, heads, dv).
        log_decay: (batch, length, heads), g_t <= 0.
        beta: (batch, length, heads), in (0, 1).
        state: (batch, heads, dk, dv), S_0.

    Returns:
        The outputs (batch, length, heads, dv) and the last state (batch, heads, dk, dv).
    """
    if torch.compiler.is_exporting():
        exported: Pair = _gated_delta_rule_op(query, key, value, log_decay, beta, state)
        return exported
    return _chunked_delta_rule(query, key, value, log_decay, beta, state)


def causal_conv(
    inputs: torch.Tensor, weight: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """SiLU of a causal depthwise convolution that carries its last inputs along.

    Args:
        inputs: (batch, channels, length).
        weight: (channels, 1, kernel).
        state: (batch, channels, kernel - 1), the inputs before these.

    Returns:
        The outputs (batch, channels, length) and the new state (batch, channels, kernel - 1).
    """
    if torch.compiler.is_exporting():
        exported: Pair = _causal_conv_op(inputs, weight, state)
        return exported
    return _causal_conv(inputs, weight, state)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_keys: torch.Tensor,
    past_values: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Softmax attention to the past and to these positions; heads may share keys and values.

    Args:
        query: (batch, length, heads, dim).
        key, value: (batch, length, groups, dim), heads a multiple of groups.
        past_keys, past_values: (batch, groups, past, dim).
        bias: (batch or 1, 1, length, past + length), added to the scores; it is causal and hides
            padding, see `attention_bias`.

    Returns:
        The outputs (batch, length, heads, dim); keys and values (batch, groups, past + length,
        dim).
    """
    if torch.compiler.is_exporting():
        exported: Triple = _attend_op(query, key, value, past_keys, past_values, bias, scale)
        return exported
    return _attend(query, key, value, past_keys, past_values, bias, scale)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last axis, computed in fp32, in x's dtype.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467), eq. 4.
    """
    if torch.compiler.is_exporting():
        exported: torch.Tensor = _rms_norm_op(x, weight, eps)
        return exported
    return _rms_norm(x, weight, eps)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of the first dims of each head, halves rotated against each other.

    Args:
        x: (batch, length, heads, dim).
        cos, sin: (batch, length, rotated / 2), rotated <= dim.

    Source: Su et al., "RoFormer" (arXiv 2104.09864), section 3.2, in the half-split layout.
    """
    if torch.compiler.is_exporting():
        exported: torch.Tensor = _rotate_op(x, cos, sin)
        return exported
    return _rotate(x, cos, sin)


def grouped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Softmax attention where several query heads share one key and value head.

    The query heads of a group are laid side by side along the length, so that keys and values
    are never repeated.

    Args:
        query: (batch, heads, length, dim); key, value: (batch, groups, total, dim).
        bias: (batch or 1, 1, length, total), added to the scores, or None.

    Returns:
        (batch, heads, length, dim).
    """
    batch, heads, length, dim = query.shape
    groups = key.shape[1]
    folded = query.reshape(batch, groups, heads // groups * length, dim)
    scores = folded @ key.transpose(-1, -2) * scale
    if bias is not None:
        scores = scores.view(batch, heads, length, -1) + bias
    weights = torch.softmax(scores, dim=-1).reshape(batch, groups, heads // groups * length, -1)
    return (weights @ value).view(batch, heads, length, dim)


def last_positions(hidden: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
    """The last `count` positions of (batch, length, hidden), or all of them for 0.

    `count` is an int64 scalar tensor while exporting, an input of the graph. Elsewhere an int64
    tensor (n,) of places in batch * length chooses just these, as (1, n, hidden).
    """
    if torch.compiler.is_exporting():
        kept: torch.Tensor = _last_positions_op(hidden, count)
        return kept
    if isinstance(count, torch.Tensor) and count.ndim:
        return hidden.flatten(0, 1)[count][None]
    return hidden[:, -int(count) :]


def vocabulary_logits(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """hidden (batch, length, hidden) @ weight^T for a weight (vocabulary, hidden).

    An operator of its own, so that a graph reads the matrix as it lies on disk: with tied
    embeddings it is the embedding table, and a transposed copy would double it.
    """
    if torch.compiler.is_exporting():
        logits: torch.Tensor = _vocabulary_logits_op(hidden, weight)
        return logits
    return F.linear(hidden, weight)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_keys: torch.Tensor,
    past_values: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
) -> Triple:
    keys = torch.cat((past_keys, key.transpose(1, 2)), dim=2)
    values = torch.cat((past_values, value.transpose(1, 2)), dim=2)
    mixed = grouped_attention(query.transpose(1, 2), keys, values, bias, scale)
    return mixed.transpose(1, 2), keys, values


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    if x.requires_grad and not weight.requires_grad and torch.is_grad_enabled():
        normed: torch.Tensor = _FrozenRmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return normed
    wide = _wide(x)
    return (wide * _inverse_rms(wide, eps) * weight.to(wide.dtype)).to(x.dtype)


def _inverse_rms(wide: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


class _FrozenRmsNorm(torch.autograd.Function):
    """The norm under a weight that is not trained: half the time of autograd's own backward pass
    over its parts, which goes through memory once for each."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = _wide(x)
        inverse = _inverse_rms(wide, eps)
        ctx.save_for_backward(x, inverse, weight)
        return (wide * inverse).mul_(weight.to(wide.dtype)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """With y = w x r and r = (mean(x^2) + eps)^-1/2: dx = r g - x r^3 mean(g x), g = w dy."""
        x, inverse, weight = ctx.saved_tensors
        wide = _wide(x)
        gradient = _wide(upstream[0]) * weight.to(wide.dtype)
        along = (gradient * wide).mean(-1, keepdim=True) * inverse**3
        return gradient.mul_(inverse).sub_(wide * along).to(x.dtype), None, None


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def _causal_conv(
    inputs: torch.Tensor, weight: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    joined = torch.cat([state, inputs], dim=-1)
    outputs = F.silu(F.conv1d(joined, weight, groups=weight.shape[0]))
    return outputs, joined[..., -(weight.shape[-1] - 1) :]


def _chunked_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """In fp32 at least, as the running products need; the outputs have value's dtype."""
    outputs, last = [], _wide(state)
    wide = [_wide(x) for x in (query * query.shape[-1] ** -0.5, key, value, log_decay, beta)]
    for start in range(0, query.shape[1], CHUNK):
        q, k, v, g, b = (x[:, start : start + CHUNK].transpose(1, 2) for x in wide)
        output, last = _one_chunk(q, k, v, g, b, last)
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1).to(value.dtype), last.to(state.dtype)


def _one_chunk(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One chunk, all its steps at once; tensors are (batch, heads, length, ...).

    With u_t the value written at step t, u_t + beta_t sum_{s<t} exp(G_t - G_s) (k_t.k_s) u_s
    = beta_t (v_t - exp(G_t) S_0^T k_t), G the running sum of g: a unit lower triangular system.
    """
    total = log_decay.cumsum(-1)
    later = torch.ones(key.shape[2], key.shape[2], dtype=torch.bool, device=key.device).triu(1)
    pairwise = (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()
    system = beta[..., None] * (key @ key.transpose(-1, -2)) * pairwise
    decay = total.exp()[..., None]
    target = beta[..., None] * (value - decay * (key @ state))
    written = torch.linalg.solve_triangular(system, target, upper=False, unitriangular=True)
    outputs = decay * (query @ state) + (query @ key.transpose(-1, -2) * pairwise) @ written
    remaining = (total[..., -1:] - total).exp()[..., None]
    state = decay[..., -1:, :] * state + (remaining * key).transpose(-1, -2) @ written
    return outputs, state


@torch.library.custom_op("art::gated_delta_rule", mutates_args=())
def _gated_delta_rule_op(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _chunked_delta_rule(query, key, value, log_decay, beta, state)


@_gated_delta_rule_op.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(value), torch.empty_like(state)


@torch.library.custom_op("art::causal_conv", mutates_args=())
def _causal_conv_op(
    inputs: torch.Tensor, weight: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    outputs, new_state = _causal_conv(inputs, weight, state)
    return outputs, new_state.clone()


@_causal_conv_op.register_fake
def _(
    inputs: torch.Tensor, weight: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(inputs), torch.empty_like(state)


@torch.library.custom_op("art::attend", mutates_args=())
def _attend_op(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_keys: torch.Tensor,
    past_values: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mixed, keys, values = _attend(query, key, value, past_keys, past_values, bias, scale)
    return mixed.contiguous(), keys, values


@_attend_op.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_keys: torch.Tensor,
    past_values: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    total = past_keys.shape[2] + key.shape[1]
    kept = past_keys.new_empty(past_keys.shape[0], past_keys.shape[1], total, past_keys.shape[3])
    return torch.empty_like(query), kept, torch.empty_like(kept)


@torch.library.custom_op("art::rms_norm", mutates_args=())
def _rms_norm_op(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return _rms_norm(x, weight, eps).clone()


@_rms_norm_op.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("art::rotate", mutates_args=())
def _rotate_op(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return _rotate(x, cos, sin)


@_rotate_op.register_fake
def _(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("art::last_positions", mutates_args=())
def _last_positions_op(hidden: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    return hidden[:, -int(count) :].clone()


@_last_positions_op.register_fake
def _(hidden: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return hidden.new_empty(hidden.shape[0], kept, hidden.shape[2])


@torch.library.custom_op("art::vocabulary_logits", mutates_args=())
def _vocabulary_logits_op(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(hidden, weight)


@_vocabulary_logits_op.register_fake
def _(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden.new_empty(hidden.shape[0], hidden.shape[1], weight.shape[0])
