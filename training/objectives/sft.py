"""Supervised fine-tuning: the answer given in the data should be the likely one."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from training.batches import IGNORE, Batch
from training.policy import Policy


def loss(policy: Policy, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy, in nats, over every answer token of `batch`; fp32, no shape."""
    logits = policy(batch.input_ids, batch.keep)
    return F.cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE
    )
