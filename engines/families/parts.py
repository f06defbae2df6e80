"""What every model family provides: the frozen model as three parts.

The same three modules give training its gradients and export its graphs. They hold references to
the Hugging Face model's own parameters, never copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from engines.positions import prefix_positions
from engines.state import StateTensor

State = tuple[torch.Tensor, ...]


class Vision(nn.Module):
    """What a family's vision part offers beside `forward`."""

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised patches as the model's own processor makes them, (n, patches, values)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Parts:
    """A frozen model, ready to be differentiated or exported.

    vision: pixels (n, size, size, 3) in 0..255, uint8 or float -> visual tokens fp32
        (n, picture_tokens, hidden).
    embed: input_ids int64 (batch, length) -> (batch, length, hidden).
    decoder: (inputs_embeds (batch, length, hidden), attention_mask int64 (batch, past + length)
        or None, position_ids int64 (3, batch, length), state, logits_to_keep) ->
        (logits (batch, kept, vocabulary), new state). `logits_to_keep` counts from the end and 0
        keeps all. A 0 in the mask may stand at the left end only. Nothing is changed in place.
    """

    vision: Vision
    embed: nn.Module
    decoder: nn.Module
    state: tuple[StateTensor, ...]
    picture_size: int
    picture_tokens: int
    image_token_id: int
    grid: int
    """Side of the square of visual tokens, picture_tokens = grid * grid."""

    def empty_state(self, batch: int) -> State:
        """The state before any token."""
        return tuple(
            torch.zeros(batch, *(0 if n is None else n for n in spec.shape)) for spec in self.state
        )

    def prefix_positions(self, prefix_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
        """mrope positions of a prefix with at most one picture, and the position after it.

        Args:
            prefix_ids: int64 (1, length).

        Returns:
            position_ids int64 (3, 1, length), as `engines.positions` defines them.
        """
        positions, following = prefix_positions(
            prefix_ids[0].tolist(), self.image_token_id, self.grid
        )
        return torch.from_numpy(positions)[:, None], following


def linear_positions(start: torch.Tensor, length: int) -> torch.Tensor:
    """Positions (3, batch, length) of text that starts at `start` int64 (batch,)."""
    return (start[:, None] + torch.arange(length)).expand(3, -1, -1)


def unit_length(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """x / sqrt(sum(x^2) + eps) over the last axis, as flash-linear-attention does."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + eps)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of the first cos.shape[-1] dims of x, halves rotated against each other."""
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


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


def attention_bias(mask: torch.Tensor | None, length: int, total: int) -> torch.Tensor:
    """0 where a query may look, the lowest float where not: (batch or 1, 1, length, total)."""
    keys = torch.arange(total)
    queries = torch.arange(length) + (total - length)
    allowed = (keys[None, :] <= queries[:, None])[None, None]
    if mask is not None:
        allowed = allowed & (mask != 0)[:, None, None, :]
    return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
