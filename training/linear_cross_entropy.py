"""Cross-entropy of a linear head without ever holding all logits.

The head is frozen, so all that the backward pass needs of it is the gradient for its input. That is
computed along with the loss, a chunk of positions at a time, and the logits are dropped (after Hsu
et al., "Liger Kernel", arXiv 2410.10989, section 3.2). The products are those of the plain
computation, no more; only their order in time differs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK = 1 << 26
"""Logits that are held at once: 256 MiB in fp32."""


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """-log softmax(hidden @ weight^T / temperature) at the targets.

    Args:
        hidden: (positions, width).
        weight: (vocabulary, width), frozen. targets: int64 (positions,).

    Returns:
        Losses fp32 (positions,), in nats and differentiable in `hidden`; and bool (positions,),
        where the target has the highest logit.

    Raises:
        ValueError: the head is trained, and would silently get no gradient.
    """
    if weight.requires_grad:
        raise ValueError("the head's matrix must be frozen")
    losses, right = _LinearCrossEntropy.apply(hidden, weight, targets, temperature)  # type: ignore[no-untyped-call]
    return losses, right


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = chunk_size(weight)
        wanted = ctx.needs_input_grad[0]
        matrix = as_multiplied(weight)
        found = [
            _chunk(some, matrix, which, temperature, wanted)
            for some, which in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        losses, right, gradients = (torch.cat(each) for each in zip(*found, strict=True))
        ctx.save_for_backward(gradients)
        ctx.mark_non_differentiable(right)
        return losses, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return (upstream[0][:, None] * gradients).to(gradients.dtype), None, None, None


def _chunk(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    wanted: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses, whether the target is the likeliest, and the gradients for `hidden` if wanted."""
    logits = F.linear(hidden.to(weight.dtype), weight).float()
    if temperature != 1:
        logits /= temperature
    where = targets[:, None]
    right = logits.argmax(-1) == targets
    normaliser = logits.logsumexp(-1, keepdim=True)
    losses = (normaliser - logits.gather(-1, where))[:, 0]
    if not wanted:
        return losses, right, hidden.new_empty(0)
    # d loss / d logits is the softmax less 1 at the target.
    slope = logits.sub_(normaliser).exp_()
    slope.scatter_add_(-1, where, slope.new_full(where.shape, -1.0))
    gradients = slope.to(weight.dtype) @ weight
    return losses, right, (gradients / temperature).to(hidden.dtype)


def chunk_size(weight: torch.Tensor) -> int:
    """For how many positions logits of the head (vocabulary, width) are held at once."""
    return max(1, CHUNK // weight.shape[0])


def as_multiplied(weight: torch.Tensor) -> torch.Tensor:
    """`weight` in the dtype that products are computed in here: autocast's, if it is on."""
    kind = weight.device.type
    if torch.is_autocast_enabled(kind):
        return weight.to(torch.get_autocast_dtype(kind))
    return weight
