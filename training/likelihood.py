"""How likely a policy finds the answers of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from training.batches import IGNORE, Row, collate
from training.policy import Policy, device_of


def token_logprobs(
    policy: Policy, rows: Sequence[Row], temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities fp32 (batch, keep) of answer tokens at `temperature`, and bool (batch,
    keep), true where there is one; elsewhere the log-probability is 0."""
    batch = collate(rows, device_of(policy))
    logits = policy(batch.input_ids, batch.keep).float() / temperature
    losses = F.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return -losses.view_as(batch.targets), batch.targets != IGNORE


def answer_logprobs(policy: Policy, rows: Sequence[Row]) -> torch.Tensor:
    """Log-probabilities fp32 (batch,) of whole answers."""
    return token_logprobs(policy, rows)[0].sum(-1)
