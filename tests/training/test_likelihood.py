from __future__ import annotations

import torch

from training.batches import Row
from training.likelihood import answer_logprobs, token_logprobs

ROWS = [Row((1, 2, 3, 4, 5), 3), Row((6, 7, 8), 2)]
LOGITS = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))


def policy(input_ids: torch.Tensor, keep: int) -> torch.Tensor:
    return LOGITS[:, -keep:]


def test_every_answer_token_at_its_place_and_temperature() -> None:
    for temperature in (1.0, 0.5):
        logprobs = (LOGITS / temperature).log_softmax(-1)
        found, mask = token_logprobs(policy, ROWS, temperature)
        expected = [logprobs[0, 2, 4], logprobs[0, 3, 5], logprobs[1, 1, 8]]
        assert torch.allclose(found[mask], torch.stack(expected))
        assert not found[~mask].any()
        assert mask.sum(-1).tolist() == [2, 1]


def test_an_answer_is_as_likely_as_its_tokens_together() -> None:
    found, mask = token_logprobs(policy, ROWS)
    assert torch.allclose(answer_logprobs(policy, ROWS), (found * mask).sum(-1))
