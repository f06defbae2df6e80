"""The frozen model under some adapter, seen as a function from token ids to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from training.batches import Batch

if TYPE_CHECKING:
    from engines.chat import Chat
    from engines.families.parts import Parts

Policy = Callable[[torch.Tensor, int], torch.Tensor]
"""(input_ids int64 (batch, length), keep) -> logits (batch, keep, vocabulary) of the last `keep`
positions. Rows are padded on the right, which causal models need no mask for."""

Objective = Callable[[Policy, Batch], torch.Tensor]
"""(policy, batch) -> loss without shape, differentiable in what the policy was built from."""


def picture_policy(parts: Parts, chat: Chat, pixels: torch.Tensor) -> Policy:
    """The model after a header and a picture; `pixels` is (size, size, 3) in 0..255.

    Vision and the prefix run here, once, at batch 1; every call expands that state to its batch.
    Gradients of all calls meet in the one state and flow on to `pixels`.
    """
    ids = torch.tensor([chat.prefix_ids()], device=pixels.device)
    where, offset = chat.prefix_positions()
    positions = torch.from_numpy(where)[:, None].to(pixels.device)
    places = (ids[0] == parts.image_token_id).nonzero()[:, 0]
    embeds = parts.embed(ids).index_copy(1, places, parts.vision(pixels[None]))
    _, state = parts.decoder(embeds, None, positions, parts.empty_state(1), 1)

    def policy(input_ids: torch.Tensor, keep: int) -> torch.Tensor:
        return _continue(parts, tuple(state), offset, input_ids, keep)

    return policy


def text_policy(parts: Parts) -> Policy:
    """The model without any picture."""

    def policy(input_ids: torch.Tensor, keep: int) -> torch.Tensor:
        return _continue(parts, tuple(parts.empty_state(1)), 0, input_ids, keep)

    return policy


def _continue(
    parts: Parts, state: tuple[torch.Tensor, ...], offset: int, input_ids: torch.Tensor, keep: int
) -> torch.Tensor:
    batch, length = input_ids.shape
    shared = tuple(tensor.expand(batch, *tensor.shape[1:]) for tensor in state)
    positions = torch.arange(offset, offset + length, device=input_ids.device)
    logits: torch.Tensor
    logits, _ = parts.decoder(
        parts.embed(input_ids), None, positions.expand(3, batch, length), shared, keep
    )
    return logits
