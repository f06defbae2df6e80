"""How likely a policy finds the answers of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from training.batches import Batch, Row, collate
from training.linear_cross_entropy import linear_cross_entropy
from training.linear_losses import Losses, linear_losses
from training.policy import Policy, PrefixPolicy, device_of


def token_losses(
    policy: Policy, batch: Batch, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy fp32 (tokens,), in nats at `temperature`, of every answer token of `batch` in
    turn, and bool (tokens,), true where it is the likeliest one.

    Under a `PrefixPolicy` no logits are computed but those of answer tokens, and they are never
    all held at once.
    """
    targets = batch.targets[batch.wanted]
    if not isinstance(policy, PrefixPolicy):
        logits = policy(batch.input_ids, batch.keep)[batch.wanted].float() / temperature
        right = logits.argmax(-1) == targets
        return F.cross_entropy(logits, targets, reduction="none"), right
    right = torch.empty(0)

    def head(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        nonlocal right
        losses, right = linear_cross_entropy(hidden[0], weight, targets, temperature)
        return losses

    losses = policy(batch.input_ids, batch.places, head)
    return losses, right


def losses_of_answers(policy: Policy, batch: Batch, losses_of: Losses) -> torch.Tensor:
    """Another loss fp32 (tokens,) of every answer token of `batch` in turn, as `token_losses`
    computes cross-entropy: `losses_of` sees the logits of some of these tokens at a time."""
    if not isinstance(policy, PrefixPolicy):
        logits = policy(batch.input_ids, batch.keep)[batch.wanted].float()
        return losses_of(logits, slice(0, len(logits)))

    def head(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return linear_losses(hidden[0], weight, losses_of)

    return policy(batch.input_ids, batch.places, head)


def token_logprobs(
    policy: Policy, rows: Sequence[Row], temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities fp32 (batch, keep) of answer tokens at `temperature`, and bool (batch,
    keep), true where there is one; elsewhere the log-probability is 0."""
    batch = collate(rows, device_of(policy))
    losses, _ = token_losses(policy, batch, temperature)
    spread = losses.new_zeros(batch.targets.shape).masked_scatter(batch.wanted, -losses)
    return spread, batch.wanted


def answer_logprobs(policy: Policy, rows: Sequence[Row]) -> torch.Tensor:
    """Log-probabilities fp32 (batch,) of whole answers."""
    return token_logprobs(policy, rows)[0].sum(-1)
