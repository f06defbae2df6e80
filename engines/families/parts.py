"""What every model family provides: the frozen model as three parts.

The same three modules give training its gradients and export its graphs. They hold references to
the Hugging Face model's own parameters, never copies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from engines.layout import PictureLayout
from engines.state import StateTensor

State = tuple[torch.Tensor, ...]
Head = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(hidden (batch, kept, hidden), the head's matrix (vocabulary, hidden)) -> logits, or whatever
else is made of them."""


class Vision(nn.Module):
    """What a family's vision part offers beside `forward`."""

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the model's own processor makes of pictures: row i has the shape of its
        `pixel_values` for that picture."""
        raise NotImplementedError


@dataclass(frozen=True)
class Parts:
    """A frozen model, ready to be differentiated or exported.

    vision: pixels (n, size, size, 3) in 0..255, uint8 or float -> visual tokens
        (n, picture_tokens, width).
    embed: input_ids int64 (batch, length) -> (batch, length, width).
    decoder: (inputs_embeds (batch, length, width), attention_mask int64 (batch, past + length)
        or None, position_ids int64 (3, batch, length), state, logits_to_keep) ->
        (logits (batch, kept, vocabulary), new state). `logits_to_keep` counts from the end and 0
        keeps all; see `operators.last_positions`. A `Head` after it takes the place of the matrix
        product that makes the logits. A 0 in the mask may stand at the left end only. Nothing is
        changed in place.

    width is the hidden size; with DeepStack it is that of the embedding followed by what is added
    after each of the first layers, zeros for text, so that pictures and text are one kind of row
    for everyone outside the family.
    """

    vision: Vision
    embed: nn.Module
    decoder: nn.Module
    state: tuple[StateTensor, ...]
    layout: PictureLayout

    @property
    def picture_size(self) -> int:
        """Pixels a side."""
        return self.layout.size

    @property
    def picture_tokens(self) -> int:
        """Visual tokens of a picture."""
        return self.layout.tokens

    @property
    def image_token_id(self) -> int:
        """The placeholder of one visual token."""
        return self.layout.image_token_id

    def empty_state(self, batch: int) -> State:
        """The state before any token."""
        like = next(self.decoder.parameters())
        return tuple(
            like.new_zeros(batch, *(0 if n is None else n for n in spec.shape))
            for spec in self.state
        )

    def prefix_positions(self, prefix_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Positions of a prefix with at most one picture, and the position after it.

        Args:
            prefix_ids: int64 (1, length).

        Returns:
            position_ids int64 (3, 1, length), as `engines.positions` defines them.
        """
        positions, following = self.layout.prefix_positions(prefix_ids[0].tolist())
        return torch.from_numpy(positions)[:, None], following


def linear_positions(start: torch.Tensor, length: int) -> torch.Tensor:
    """Positions (3, batch, length) of text that starts at `start` int64 (batch,)."""
    return (start[:, None] + torch.arange(length, device=start.device)).expand(3, -1, -1)


def unit_length(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """x / sqrt(sum(x^2) + eps) over the last axis, as flash-linear-attention does."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + eps)


def attention_bias(mask: torch.Tensor | None, hidden: torch.Tensor, past: int) -> torch.Tensor:
    """0 where a query may look, the lowest float where not.

    Args:
        mask: int64 (batch, past + length), 0 for padding, or None.
        hidden: (batch, length, width), what the queries will be made from.
        past: positions before these.

    Returns:
        (batch or 1, 1, length, past + length) in the dtype of `hidden`.
    """
    length = hidden.shape[1]
    keys = torch.arange(past + length, device=hidden.device)
    queries = torch.arange(length, device=hidden.device) + past
    allowed = (keys[None, :] <= queries[:, None])[None, None]
    if mask is not None:
        allowed = allowed & (mask != 0)[:, None, None, :]
    lowest = torch.finfo(hidden.dtype).min
    return torch.where(allowed, 0.0, lowest).to(hidden.dtype)
