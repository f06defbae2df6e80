"""How likely a policy finds the answers of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from training.batches import Batch, Row, collate
from training.linear_cross_entropy import linear_cross_entropy
from training.linear_losses import linear_losses
from training.passes import Pass, in_order, passes_of
from training.policy import Policy, PrefixPolicy, device_of

Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits fp32 (n, vocabulary), which of all answer tokens these are, int64 (n,)) -> a loss (n,)
for each, which depends on that token's logits alone."""


def token_losses(
    policy: Policy, batch: Batch, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy fp32 (tokens,), in nats at `temperature`, of every answer token of `batch` in
    turn, and bool (tokens,), true where it is the likeliest one.

    Under a `PrefixPolicy` no logits are computed but those of answer tokens, and they are never
    all held at once; prompts that rows share are read once, see `training.passes`.
    """
    targets = batch.targets[batch.wanted]
    if not isinstance(policy, PrefixPolicy):
        logits = policy(batch.input_ids, batch.keep)[batch.wanted].float() / temperature
        right = logits.argmax(-1) == targets
        return F.cross_entropy(logits, targets, reduction="none"), right
    found = passes_of(policy, batch)
    losses, rights = zip(*(_cross_entropy(one, temperature) for one in found), strict=True)
    return in_order(found, losses, batch), in_order(found, rights, batch)


def _cross_entropy(one: Pass, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`token_losses` in one pass."""
    right, targets = torch.empty(0), one.batch.targets[one.batch.wanted]

    def head(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        nonlocal right
        losses, right = linear_cross_entropy(hidden[0], weight, targets, temperature)
        return losses

    losses = one.policy(one.batch.input_ids, one.batch.places, head)
    return losses, right


def losses_of_answers(policy: Policy, batch: Batch, losses_of: Losses) -> torch.Tensor:
    """Another loss fp32 (tokens,) of every answer token of `batch` in turn, computed as those of
    `token_losses`: `losses_of` is given the logits of some of these tokens at a time."""
    every = torch.arange(int(batch.wanted.sum()), device=batch.targets.device)
    if not isinstance(policy, PrefixPolicy):
        return losses_of(policy(batch.input_ids, batch.keep)[batch.wanted].float(), every)
    found = passes_of(policy, batch)
    counts = batch.wanted.sum(1).tolist()
    of_row = every.split(counts)

    def losses(one: Pass) -> torch.Tensor:
        tokens = torch.cat([of_row[row] for row in one.rows])

        def head(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return linear_losses(hidden[0], weight, lambda x, which: losses_of(x, tokens[which]))

        return one.policy(one.batch.input_ids, one.batch.places, head)

    return in_order(found, [losses(one) for one in found], batch)


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
