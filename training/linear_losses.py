"""Any loss of single positions after a linear head, without ever holding all logits.

As `training.linear_cross_entropy`, whose gradient is written out and costs less, for losses whose
gradient autograd has to find.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from training.linear_cross_entropy import as_multiplied, chunk_size

Losses = Callable[[torch.Tensor, slice], torch.Tensor]
"""(logits fp32 (n, vocabulary), which of all positions these n are) -> a loss (n,) for each, which
depends on that position's logits alone."""


def linear_losses(hidden: torch.Tensor, weight: torch.Tensor, losses_of: Losses) -> torch.Tensor:
    """`losses_of` the logits hidden @ weight^T.

    Args:
        hidden: (positions, width).
        weight: (vocabulary, width), frozen.

    Returns:
        fp32 (positions,), differentiable in `hidden` alone.
    """
    if weight.requires_grad:
        raise ValueError("the head's matrix must be frozen")
    losses: torch.Tensor = _LinearLosses.apply(hidden, weight, losses_of)  # type: ignore[no-untyped-call]
    return losses


class _LinearLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, losses_of: Losses
    ) -> torch.Tensor:
        size, wanted = chunk_size(weight), ctx.needs_input_grad[0]
        matrix = as_multiplied(weight)
        losses, gradients = hidden.new_empty(len(hidden), dtype=torch.float32), None
        if wanted:
            gradients = torch.empty_like(hidden)
        for first in range(0, len(hidden), size):
            which = slice(first, min(first + size, len(hidden)))
            with torch.set_grad_enabled(wanted):
                some = hidden[which].detach().requires_grad_(wanted)
                found = losses_of(F.linear(some.to(matrix.dtype), matrix).float(), which)
            losses[which] = found.detach()
            if gradients is not None:
                (gradients[which],) = torch.autograd.grad(found, some, torch.ones_like(found))
        ctx.save_for_backward(gradients)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return (upstream[0][:, None] * gradients).to(gradients.dtype), None, None
