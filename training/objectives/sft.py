"""Supervised fine-tuning: the answer given in the data should be the likely one."""

from __future__ import annotations

import torch

from training.batches import Batch
from training.likelihood import token_losses
from training.policy import Policy


def loss(policy: Policy, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy, in nats, over every answer token of `batch`; fp32, no shape."""
    return token_losses(policy, batch)[0].mean()
