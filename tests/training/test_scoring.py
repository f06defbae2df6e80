from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from engines.chat import Chat
from engines.families import load_parts
from engines.model import load_model, resolve_model
from training.batches import Row
from training.policy import text_policy
from training.scoring import Score, score

SIZE = 6


def always_next(input_ids: torch.Tensor, keep: int) -> torch.Tensor:
    """Sure that every token is followed by the next number."""
    return 50.0 * torch.nn.functional.one_hot((input_ids + 1) % SIZE, SIZE)[:, -keep:].float()


def test_a_row_counts_only_if_its_every_answer_token_is_the_argmax() -> None:
    right, wrong_end, wrong_prompt = Row((1, 2, 3), 1), Row((1, 2, 3, 5), 1), Row((1, 4, 5), 2)
    assert score(always_next, [right], 2).exact == 1.0
    assert score(always_next, [right, wrong_end], 2).exact == 0.5
    assert score(always_next, [right, wrong_end, wrong_prompt], 2).exact == pytest.approx(2 / 3)


def test_the_loss_is_the_mean_over_tokens_whatever_the_batches() -> None:
    def uniform(input_ids: torch.Tensor, keep: int) -> torch.Tensor:
        return torch.zeros(len(input_ids), keep, SIZE)

    rows = [Row((1, 2, 3), 1), Row((1, 2, 3, 4, 5), 2), Row((1, 2), 1)]
    for batch_size in (1, 2, 10):
        found = score(uniform, rows, batch_size)
        assert found.loss == pytest.approx(math.log(SIZE), rel=1e-6)
    assert score(always_next, rows, 1) == score(always_next, rows, 3)


def test_the_better_score_has_more_exact_rows_or_the_lower_loss() -> None:
    assert Score(0.5, 1.0).beats(None)
    assert Score(0.5, 9.0).beats(Score(0.4, 1.0))
    assert Score(0.5, 0.9).beats(Score(0.5, 1.0))
    assert not Score(0.5, 1.0).beats(Score(0.5, 1.0))
    assert not Score(0.4, 0.1).beats(Score(0.5, 1.0))


def test_exact_is_what_greedy_generation_writes(tiny_model_dir: Path) -> None:
    model = load_model(resolve_model(str(tiny_model_dir)))
    policy = text_policy(load_parts(model, 64))
    prompt = Chat.load(tiny_model_dir, 64).full_ids("12 + 30")
    written = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)
    row = Row(tuple(written[0].tolist()), len(prompt))
    assert len(row.ids) > len(prompt)
    assert score(policy, [row], 1).exact == 1.0
    for place in range(len(prompt), len(row.ids)):
        other = list(row.ids)
        other[place] = (other[place] + 1) % 300
        assert score(policy, [Row(tuple(other), len(prompt))], 1).exact == 0.0
