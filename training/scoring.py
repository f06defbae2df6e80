"""Validation without generating: is every token of the answer the likeliest one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training import processes
from training.batches import Row, collate
from training.likelihood import token_losses
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
    """`policy` on all `rows`, in batches of like lengths, which several processes share."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    exact, total, tokens = 0, 0.0, 0
    firsts = range(0, len(ordered), batch_size)
    for first in firsts[processes.index() :: processes.count()]:
        batch = collate(ordered[first : first + batch_size], device_of(policy))
        losses, right = token_losses(policy, batch)
        spread = torch.ones_like(batch.wanted).masked_scatter(batch.wanted, right)
        exact += int(spread.all(dim=1).sum())
        total, tokens = total + float(losses.sum()), tokens + len(losses)
    exact, total, tokens = map(sum, zip(*processes.gathered((exact, total, tokens)), strict=True))
    return Score(exact / len(ordered), total / tokens)
