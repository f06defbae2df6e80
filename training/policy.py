"""The frozen model under some adapter, seen as a function from token ids to logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from engines.chat import Chat
    from engines.families.parts import Head, Parts

Policy = Callable[[torch.Tensor, int], torch.Tensor]
"""(input_ids int64 (batch, length), keep) -> logits (batch, keep, vocabulary) of the last `keep`
positions. Rows are padded on the right, which causal models need no mask for."""

State = tuple[torch.Tensor, ...]


def device_of(policy: Policy) -> torch.device:
    """Where a policy's inputs and logits are."""
    if isinstance(policy, PrefixPolicy):
        return policy.state[0].device
    return torch.device("cpu")


@dataclass(frozen=True, eq=False)
class PrefixPolicy:
    """The model after tokens that are the same for every row, in whose state gradients meet.

    state: the decoder's, at batch 1. offset: position of the next token. pixels: of the picture
    among those tokens, (size, size, 3) in 0..255, or None where there is none.
    """

    parts: Parts
    state: State
    offset: int
    pixels: torch.Tensor | None = None

    def __call__(
        self, input_ids: torch.Tensor, keep: int | torch.Tensor, *head: Head
    ) -> torch.Tensor:
        """Also takes places among all positions, int64 (n,), for `keep`: logits (1, n,
        vocabulary); and a `Head`, whose result is then returned."""
        batch, length = input_ids.shape
        shared = tuple(tensor.expand(batch, *tensor.shape[1:]) for tensor in self.state)
        start, device = self.offset, input_ids.device
        positions = torch.arange(start, start + length, device=device)
        embeds, where = self.parts.embed(input_ids), positions.expand(3, batch, length)
        logits: torch.Tensor
        logits, _ = self.parts.decoder(embeds, None, where, shared, keep, *head)
        return logits

    def after(self, ids: torch.Tensor) -> PrefixPolicy:
        """The same after more tokens, int64 (n,), which are read once, for all rows to come."""
        start, count = self.offset, len(ids)
        positions = torch.arange(start, start + count, device=ids.device).expand(3, 1, count)
        embeds = self.parts.embed(ids[None])
        _, state = self.parts.decoder(embeds, None, positions, self.state, 1, no_logits)
        return replace(self, state=tuple(state), offset=start + count)

    def cut(self) -> PrefixPolicy:
        """The same, its state cut off from what it was made of: several losses can then be
        differentiated one by one, and the prefix only once, by `flow`."""
        leaves = tuple(tensor.detach().requires_grad_() for tensor in self.state)
        return replace(self, state=leaves)

    def flow(self, cut: PrefixPolicy, *more: torch.Tensor) -> None:
        """Pass the gradients that `cut` has gathered on, together with those of `more` losses."""
        pairs = [
            (tensor, leaf.grad)
            for tensor, leaf in zip(self.state, cut.state, strict=True)
            if tensor.requires_grad and leaf.grad is not None
        ]
        pairs += [(value, torch.ones_like(value)) for value in more if value.requires_grad]
        if pairs:
            values, gradients = zip(*pairs, strict=True)
            torch.autograd.backward(values, gradients)


def no_logits(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The `Head` of a pass whose state alone is wanted: a large vocabulary is not read for it."""
    return hidden


def picture_policy(parts: Parts, chat: Chat, pixels: torch.Tensor) -> PrefixPolicy:
    """The model after a header and a picture; `pixels` is (size, size, 3) in 0..255.

    Vision and the prefix run here, once, at batch 1; every call expands that state to its batch.
    Gradients of all calls meet in the one state and flow on to `pixels`.
    """
    empty = parts.empty_state(1)
    pixels = pixels.to(empty[0].device)
    prefix = chat.prefix_ids()
    ids = torch.tensor([prefix], device=pixels.device)
    where, offset = chat.prefix_positions()
    positions = torch.from_numpy(where)[:, None].to(pixels.device)
    # Found on the CPU: a GPU would be waited for.
    places = [place for place, token in enumerate(prefix) if token == parts.image_token_id]
    where_to = torch.tensor(places, device=pixels.device)
    embeds = parts.embed(ids).index_copy(1, where_to, parts.vision(pixels[None]))
    _, state = parts.decoder(embeds, None, positions, empty, 1, no_logits)
    return PrefixPolicy(parts, tuple(state), offset, pixels.detach())


def text_policy(parts: Parts, prefix: Sequence[int] = ()) -> PrefixPolicy:
    """The model without any picture, after the tokens `prefix`."""
    bare = PrefixPolicy(parts, tuple(parts.empty_state(1)), 0)
    return bare.after(torch.tensor(prefix, device=device_of(bare))) if prefix else bare
