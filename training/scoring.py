"""Validation without generating: is every token of the answer the likeliest one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from training.batches import IGNORE, Row, collate
from training.policy import Policy, device_of


@dataclass(frozen=True)
class Score:
    """exact: share of rows, 0..1, whose every answer token (end-of-turn included) is the argmax.
    loss: mean cross-entropy over all answer tokens, in nats.

    A row that is exact is what greedy decoding would write, token for token: each argmax is taken
    after the very tokens that greedy decoding would have chosen before it. For a task scored by
    string this is its accuracy; for one with a laxer scorer (maths: the final number) it is a
    lower bound, since another way of saying the same counts as a miss here.
    """

    exact: float
    loss: float

    def beats(self, other: Score | None) -> bool:
        """More exact rows, or as many and a lower loss."""
        return other is None or (self.exact, -self.loss) > (other.exact, -other.loss)


@torch.no_grad()
def score(policy: Policy, rows: Sequence[Row], batch_size: int) -> Score:
    """`policy` on all `rows`, in batches of like lengths."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    exact, total, tokens = 0, 0.0, 0
    for first in range(0, len(ordered), batch_size):
        batch = collate(ordered[first : first + batch_size], device_of(policy))
        logits = policy(batch.input_ids, batch.keep).float()
        counted = batch.targets != IGNORE
        right = (logits.argmax(-1) == batch.targets) | ~counted
        exact += int(right.all(dim=1).sum())
        summed = F.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        total, tokens = total + float(summed), tokens + int(counted.sum())
    return Score(exact / len(ordered), total / tokens)
