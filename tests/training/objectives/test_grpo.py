"""GRPO on the tiny model, rollouts from PyTorch and from a compiled bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.errors import OptionError
from tests.training.objectives.conftest import grey_policy, material_of, metrics
from training import passes
from training.batches import collate
from training.distortions import distorted
from training.likelihood import token_logprobs
from training.objectives.grpo import Group, Grpo, advantages_of
from training.options import TrainOptions
from training.passes import passes_of
from training.policy import Policy
from training.run import train

Check = Callable[[TrainOptions], None]


def vowels(completion: str, reference: str) -> float:
    """A reward that a random model can earn: the share of e among the letters."""
    letters = [letter for letter in completion.lower() if letter.isalpha()]
    return letters.count("e") / max(1, len(letters))


SETTINGS: dict[str, Any] = {
    "group": 4,
    "max_new_tokens": 8,
    "reward": f"{__file__}:vowels",
}


@pytest.fixture
def rewarded(options: TrainOptions) -> TrainOptions:
    return replace(options, objective="grpo", settings=SETTINGS)


def test_advantages_are_normalised_in_the_group() -> None:
    found = torch.tensor(advantages_of([0.0, 0.0, 1.0, 0.5]))
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found.std(correction=0)) == pytest.approx(1.0, abs=1e-6)
    assert advantages_of([0.3, 0.3, 0.3]) == [0.0, 0.0, 0.0]


def group_of(policy: Policy, shift: float, engine: float = 0.0) -> Group:
    """Two answers; PyTorch found them `shift` likelier at the rollouts, the engine `engine`."""
    ids = [(5, 6, 7, 8, 9), (5, 6, 9, 8)]
    group = Group(ids, 2, [1.0, 0.0], [1.0, -1.0], [True, True], [], [], [])
    found, mask = token_logprobs(policy, group.rows)
    now = [row[here].tolist() for row, here in zip(found.detach(), mask, strict=True)]
    old = [[number + shift for number in row] for row in now]
    return replace(group, old=old, engine=[[number + engine for number in row] for row in old])


@pytest.mark.parametrize(
    ("shift", "expected", "clipped"),
    [
        # ratio 1: -(1 - 1) / 2.
        (0.0, 0.0, 0.0),
        # ratio 2: the good answer is held at 1.2, the bad one pays in full.
        (-0.6931472, -(1.2 - 2.0) / 2, 1.0),
        # ratio 1/2: the good answer earns a half, the bad one is held at 0.8.
        (0.6931472, -(0.5 - 0.8) / 2, 1.0),
    ],
)
def test_the_clipped_loss(
    rewarded: TrainOptions, shift: float, expected: float, clipped: float
) -> None:
    objective = Grpo(material_of(rewarded, **SETTINGS))
    policy = grey_policy(objective.material.setup)
    found = objective.loss(policy, [group_of(policy, shift)])
    assert float(found.value.detach()) == pytest.approx(expected, abs=1e-4)
    assert found.metrics["clipped"] == pytest.approx(clipped)


@pytest.mark.parametrize(("truncate", "weight"), [(2.0, 2.0), (100.0, 20.0), (0.0, 1.0)])
def test_tokens_are_weighted_against_the_engines_mismatch(
    rewarded: TrainOptions, truncate: float, weight: float
) -> None:
    objective = Grpo(material_of(rewarded, **SETTINGS, truncate=truncate))
    policy = grey_policy(objective.material.setup)
    # The engine found the tokens 20 times less likely than PyTorch did.
    group = replace(group_of(policy, 0.0, -2.9957323), advantages=[1.0, 0.0])
    found = objective.loss(policy, [group])
    assert float(found.value.detach()) == pytest.approx(-weight / 2, rel=1e-3)
    assert found.metrics["mismatch"] == pytest.approx(2.9957, abs=1e-3)
    assert found.metrics["truncated"] == (1.0 if truncate == 2.0 else 0.0)


def test_the_gradient_is_that_of_the_policy_gradient(rewarded: TrainOptions) -> None:
    """With ratio 1 it is -advantage times the gradient of the mean log-probability."""
    objective = Grpo(material_of(rewarded, **SETTINGS))
    policy = grey_policy(objective.material.setup)
    cut = policy.cut()
    objective.loss(cut, [group_of(cut, 0.0)]).value.backward()
    other = policy.cut()
    found, mask = token_logprobs(other, group_of(other, 0.0).rows)
    means = (found * mask).sum(-1) / mask.sum(-1)
    (-(means[0] - means[1]) / 2).backward()
    for one, two in zip(cut.state, other.state, strict=True):
        if two.grad is not None:
            assert one.grad is not None
            assert torch.allclose(one.grad, two.grad, atol=1e-6)


def test_prompts_read_once_a_group_give_the_same_gradient(
    rewarded: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Grpo(material_of(rewarded, **SETTINGS, kl=0.1))
    policy = grey_policy(objective.material.setup)
    groups = objective.batch(policy, 0)
    found, read = [], []
    for cost in (0, 10_000):
        monkeypatch.setattr(passes, "COST", {"cpu": cost})
        cut = policy.cut()
        loss = objective.loss(cut, groups)
        loss.value.backward()
        rows = [row for group in groups for row in group.rows]
        read.append(sum(one.positions for one in passes_of(policy, collate(rows))))
        found.append((loss.value.detach(), [tensor.grad for tensor in cut.state]))
    (value, gradients), (expected, naive) = found
    assert torch.allclose(value, expected, atol=1e-5)
    # Four answers of up to 8 tokens to prompts that are longer than these.
    assert read[0] < read[1] / 2
    for one, two in zip(gradients, naive, strict=True):
        assert one is not None and two is not None
        assert torch.allclose(one, two, atol=1e-5)


def test_rollouts_come_with_the_engines_logprobs(rewarded: TrainOptions) -> None:
    objective = Grpo(material_of(rewarded, **SETTINGS, kl=0.1, updates=2))
    policy = grey_policy(objective.material.setup)
    groups = objective.batch(policy, 0)
    assert len(groups) == 3
    assert all(len(group.ids) == 4 for group in groups)
    assert objective.batch(policy, 1) is groups
    assert objective.batch(policy, 2) is not groups
    for group in groups:
        pairs = zip(group.engine, group.old, strict=True)
        assert all(a == pytest.approx(b, abs=1e-3) for a, b in pairs)
        pairs = zip(group.reference, group.old, strict=True)
        assert not all(a == pytest.approx(b, abs=1e-3) for a, b in pairs)
    metrics = objective.loss(policy, groups).metrics
    assert metrics["mismatch"] < 1e-3
    assert metrics["mismatch_weight"] == pytest.approx(1.0, abs=1e-3)
    assert metrics["kl"] > 0


def test_groups_without_a_difference_have_no_gradient(rewarded: TrainOptions) -> None:
    objective = Grpo(material_of(rewarded, **(SETTINGS | {"reward": "exact"})))
    policy = grey_policy(objective.material.setup)
    found = objective.loss(policy, objective.batch(policy, 0))
    assert not found.value.requires_grad
    assert found.metrics["telling_groups"] == 0.0


@pytest.mark.slow
def test_the_reward_rises(rewarded: TrainOptions) -> None:
    settings = SETTINGS | {"group": 8}
    result = train(
        replace(rewarded, steps=25, batch_size=4, lr=1.0, settings=settings, validate_every=100)
    )
    rewards = [line["reward"] for line in metrics(result.out) if "reward" in line]
    assert sum(rewards[-5:]) > sum(rewards[:5])
    assert any("cut off" in note for note in result.notes)


@pytest.mark.parametrize("more", [{}, {"updates": 2, "kl": 0.05}])
def test_an_interrupted_run_goes_on_bit_for_bit(
    rewarded: TrainOptions, check_resumed: Check, more: dict[str, Any]
) -> None:
    check_resumed(replace(rewarded, settings=SETTINGS | more))


def test_updates_on_one_batch_of_rollouts_see_one_distortion(
    rewarded: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rate of nothing the picture stays, so that every ratio is 1 if it is seen alike."""
    turns: list[int] = []

    def noted(picture: torch.Tensor, names: Sequence[str], seed: int, step: int) -> torch.Tensor:
        turns.append(step)
        # Always one that shows.
        return distorted(picture, names, seed, 7 + step) + 5.0 * step

    monkeypatch.setattr("training.picture_learner.distorted", noted)
    # A positive reference keeps every group in the loss, so that every step measures its ratios.
    settings = SETTINGS | {"updates": 2, "clip": 1e-4, "kl": 1e-9}
    asked = replace(rewarded, settings=settings, robust=("noise", "jpeg"), lr=1e-12, steps=4)
    train(asked)
    assert turns == [0, 0, 1, 1]
    clipped = [line["clipped"] for line in metrics(rewarded.out) if "clipped" in line]
    assert clipped == [0.0] * 4


def test_no_weight_changes(rewarded: TrainOptions, check_frozen: Check) -> None:
    check_frozen(replace(rewarded, steps=2))


def test_a_compiled_bundle_draws(
    rewarded: TrainOptions, tiny_bundle_dir: Path, tmp_path: Path
) -> None:
    settings = SETTINGS | {"bundle": str(tiny_bundle_dir), "engine": "onnxruntime"}
    train(replace(rewarded, steps=3, settings=settings))
    lines = [line for line in metrics(rewarded.out) if "mismatch" in line]
    assert lines
    assert all(line["mismatch"] < 1e-2 for line in lines)
    # The same seeds through two engines: the same answers, and so the same first rewards.
    train(replace(rewarded, steps=3, out=tmp_path / "torch"))
    assert metrics(rewarded.out)[1]["reward"] == metrics(tmp_path / "torch")[1]["reward"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 1}, "group = 1"),
        ({"clip": 1.5}, "clip"),
        ({"reward": "numbr"}, "did you mean 'number'"),
        ({"engine": "onnxruntime"}, "--bundle"),
    ],
)
def test_bad_settings_are_told_and_nothing_is_written(
    rewarded: TrainOptions, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        train(replace(rewarded, settings=SETTINGS | changes))
    assert not rewarded.out.exists()


def test_a_bundle_of_another_size_is_refused(rewarded: TrainOptions, tiny_bundle_dir: Path) -> None:
    settings = SETTINGS | {"bundle": str(tiny_bundle_dir)}
    with pytest.raises(OptionError, match="picture size is 64"):
        train(replace(rewarded, settings=settings, size=32))
