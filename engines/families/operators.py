"""Operations that PyTorch's exporter would unroll or freeze, functional and differentiable.

While a graph is being exported they are opaque operators of the `art` library, which the exporter
turns into one node each; everywhere else they are the plain PyTorch functions below, so that
autograd sees through them. The two of Gated DeltaNet take their state and return a new one.

Source: Yang, Kautz and Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule"
(arXiv 2412.06464), section 3, with the chunk-wise form of section 3.3.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

CHUNK = 64
Pair = tuple[torch.Tensor, torch.Tensor]


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


def last_positions(hidden: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
    """The last `count` positions of (batch, length, hidden), or all of them for 0.

    `count` is an int64 scalar tensor while exporting, an input of the graph.
    """
    if torch.compiler.is_exporting():
        kept: torch.Tensor = _last_positions_op(hidden, count)
        return kept
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
    outputs = []
    scaled = query * query.shape[-1] ** -0.5
    for start in range(0, query.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        q, k, v, g, b = (x[:, part].transpose(1, 2) for x in (scaled, key, value, log_decay, beta))
        output, state = _one_chunk(q, k, v, g, b, state)
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1), state


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
