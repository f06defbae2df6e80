from __future__ import annotations

import torch
from torch.nn import functional as F

from training.batches import Row, collate
from training.objectives.sft import loss


def test_the_loss_is_the_mean_over_all_answer_tokens() -> None:
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    batch = collate([Row((1, 2, 3, 4, 5), 3), Row((6, 7, 8), 2)])

    found = loss(lambda ids, keep: logits[:, -keep:], batch)
    each = [(0, 2, 4), (0, 3, 5), (1, 1, 8)]
    expected = [F.cross_entropy(logits[row, place], torch.tensor(t)) for row, place, t in each]
    assert torch.allclose(found, torch.stack(expected).mean())


def test_padding_has_no_gradient() -> None:
    logits = torch.zeros(2, 4, 9, requires_grad=True)
    batch = collate([Row((1, 2, 3, 4, 5), 3), Row((6, 7, 8), 2)])
    loss(lambda ids, keep: logits[:, -keep:], batch).backward()
    assert logits.grad is not None
    assert logits.grad[1, 2:].abs().sum() == 0
    assert logits.grad[0, 2:].abs().sum() > 0
