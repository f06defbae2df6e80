"""However a batch is cut into passes, losses and gradients are those of its rows one by one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from engines.families import load_parts
from engines.model import load_model, resolve_model
from tests.models import tiny_model
from training import passes
from training.batches import Row, collate
from training.likelihood import losses_of_answers, token_losses
from training.passes import by_length, passes_of, shared_prompts
from training.policy import PrefixPolicy, text_policy

PREFIX, PROMPTS = (7, 8, 9, 10), ((11, 12, 13, 14, 15, 16), (17, 18), (19, 20, 21))
GROUPED = [
    Row((*PROMPTS[0], 30, 31), 6),
    Row((*PROMPTS[1], 32, 33, 34, 35, 36), 2),
    Row((*PROMPTS[0], 37, 38, 39, 40, 41, 42, 43, 44), 6),
    Row((*PROMPTS[2], 45), 3),
    Row((*PROMPTS[1], 46), 2),
    Row((*PROMPTS[0], 47), 6),
]
"""Three rows with one prompt, two with another, and one by itself, out of order."""
APART = [
    Row((*range(50 + 20 * at, 53 + 20 * at + 4 * n), 190, 191 + n), 3 + 4 * n)
    for at, n in enumerate((3, 0, 1, 3, 0))
]
"""No prompt twice, of lengths 5 to 17."""


@pytest.fixture(scope="module", params=["qwen3_5", "qwen3_vl", "smolvlm"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tiny_model(request.param, tmp_path_factory.mktemp(request.param) / "model")
    parts = load_parts(load_model(resolve_model(str(folder))))
    with torch.no_grad():
        return text_policy(parts, PREFIX)


def one_by_one(policy: PrefixPolicy, rows: list[Row], share: torch.Tensor) -> torch.Tensor:
    """Losses (tokens,) the long way, their gradients for `share` gathered in the policy's state."""
    found = []
    for row in rows:
        logits = policy(torch.tensor([row.ids[:-1]]), len(row.ids) - row.start)[0]
        found.append(F.cross_entropy(logits, torch.tensor(row.ids[row.start :]), reduction="none"))
    losses = torch.cat(found)
    (losses @ share).backward()
    return losses.detach()


@pytest.mark.parametrize(("rows", "count"), [(GROUPED, 5), (APART, 2)])
@pytest.mark.parametrize("own", [False, True])
def test_losses_and_gradients_are_those_of_rows_one_by_one(
    policy: PrefixPolicy,
    rows: list[Row],
    count: int,
    own: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passes, "COST", {"cpu": 0})
    batch, (naive, cut) = collate(rows), (policy.cut(), policy.cut())
    assert len(passes_of(policy, batch)) == count
    tokens = sum(len(row.ids) - row.start for row in rows)
    # Unlike weights, so that tokens in a wrong order show.
    share = torch.linspace(-1, 2, tokens)
    expected = one_by_one(naive, rows, share)
    targets = batch.targets[batch.wanted]
    if own:
        losses = losses_of_answers(
            cut, batch, lambda x, at: F.cross_entropy(x, targets[at], reduction="none")
        )
    else:
        losses, _ = token_losses(cut, batch)
    (losses @ share).backward()
    assert torch.allclose(losses, expected, atol=1e-5)
    for one, two in zip(cut.state, naive.state, strict=True):
        assert one.grad is not None and two.grad is not None
        largest = float(two.grad.abs().max())
        assert largest > 1e-5
        assert torch.allclose(one.grad, two.grad, atol=1e-5 * max(1.0, largest))


def test_fewer_positions_are_computed(
    policy: PrefixPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    forward = policy.parts.decoder.forward

    def counting(embeds: torch.Tensor, *others: object) -> object:
        computed.append(embeds.shape[0] * embeds.shape[1])
        return forward(embeds, *others)

    monkeypatch.setattr(policy.parts.decoder, "forward", counting)
    for rows in (GROUPED, APART):
        batch, totals = collate(rows), []
        for cost in (0, 10_000):
            monkeypatch.setattr(passes, "COST", {"cpu": cost})
            computed.clear()
            with torch.no_grad():
                token_losses(policy, batch)
            totals.append(sum(computed))
            assert totals[-1] == sum(one.positions for one in passes_of(policy, batch))
        assert totals[0] < totals[1] == batch.input_ids.numel()


def test_layers_that_are_loaded_for_each_use_are_run_once(
    policy: PrefixPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "COST", {"cpu": 0})
    monkeypatch.setattr(passes, "is_placed", lambda parts: True)
    assert len(passes_of(policy, collate(GROUPED))) == 1


def test_rows_are_parted_where_most_padding_is_left_out() -> None:
    rows, lengths = [4, 5, 6, 7], [10, 30, 9, 28]
    assert by_length(rows, lengths, 39) == [[6, 4], [7, 5]]
    assert by_length(rows, lengths, 40) == [rows]
    assert by_length(rows, [10] * 4, 0) == [rows]
    assert by_length([3], [10], 0) == [[3]]
    assert by_length([], [], 0) == []


def test_a_prompt_is_shared_if_that_is_worth_two_passes() -> None:
    ids = [[1, 2, 3, 4], [1, 2, 9, 9], [1, 2, 3, 5], [1, 2, 3, 6]]
    assert shared_prompts(ids, [3, 3, 3, 3], 2) == ([[0, 2, 3]], [1])
    assert shared_prompts(ids, [3, 3, 3, 3], 3) == ([], [0, 1, 2, 3])
    # One prompt is the beginning of another, and is not the same.
    assert shared_prompts(ids, [2, 2, 3, 3], 0) == ([[0, 1], [2, 3]], [])
