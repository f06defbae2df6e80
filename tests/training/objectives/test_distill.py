"""Distillation on the tiny model: exact targets, and a picture that comes nearer to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from engines.errors import DataError, OptionError
from tests.training.objectives.conftest import grey_policy, interrupted, material_of, metrics
from training import linear_cross_entropy
from training.batches import collate
from training.objectives import distill
from training.objectives.distill import Distill, kept_divergence
from training.options import TrainOptions
from training.policy import text_policy
from training.run import train

Check = Callable[[TrainOptions], None]


@pytest.fixture
def distilling(options: TrainOptions) -> TrainOptions:
    return replace(options, objective="distill")


def test_all_tokens_kept_is_the_divergence_of_pytorch() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 11), torch.randn(5, 11).log_softmax(-1)
    top = teacher.topk(11)
    expected = F.kl_div(student.log_softmax(-1), teacher, log_target=True, reduction="batchmean")
    found = kept_divergence(student, top.indices, top.values)
    assert torch.allclose(found.mean(), expected)


def test_fewer_tokens_bound_the_divergence_from_below() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 50), (3 * torch.randn(5, 50)).log_softmax(-1)
    found = []
    for count in (1, 5, 20, 49, 50):
        top = teacher.topk(count)
        found.append(float(kept_divergence(student, top.indices, top.values).mean()))
    assert found == sorted(found)
    assert found[0] > 0
    assert found[3] == pytest.approx(found[4], rel=1e-2)


def test_a_student_like_the_teacher_has_no_loss_and_no_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 30, requires_grad=True)
    top = logits.detach().log_softmax(-1).topk(7)
    loss = kept_divergence(logits, top.indices, top.values).mean()
    loss.backward()
    assert loss.detach().abs() < 1e-6
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("top", [0, 7])
@pytest.mark.parametrize("chunk", [1, 3 * 400, 1 << 26])
def test_logits_in_chunks_have_the_gradient_of_whole_logits(
    distilling: TrainOptions, monkeypatch: pytest.MonkeyPatch, chunk: int, top: int
) -> None:
    objective = Distill(material_of(distilling, top=top))
    policy = grey_policy(objective.material.setup)
    lessons = objective.batch(policy, 0)
    monkeypatch.setattr(linear_cross_entropy, "CHUNK", chunk)
    cut, whole = policy.cut(), policy.cut()
    found = objective.loss(cut, lessons).value
    found.backward()

    batch = collate([lesson.row for lesson in lessons])
    logits = whole(batch.input_ids, batch.keep)[batch.wanted]
    ids = torch.cat([lesson.ids for lesson in lessons]).long()
    kept = torch.cat([lesson.logprobs for lesson in lessons])
    expected = kept_divergence(logits, ids, kept).mean()
    expected.backward()
    assert torch.allclose(found, expected, atol=1e-6)
    for one, two in zip(cut.state, whole.state, strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, atol=1e-6)


def test_no_more_logits_are_made_than_answers_have_tokens(
    distilling: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    inner = distill.kept_divergence

    def counted(logits: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        seen.append(len(logits))
        return inner(logits, ids, kept)

    objective = Distill(material_of(distilling))
    policy = grey_policy(objective.material.setup)
    lessons = objective.batch(policy, 0)
    monkeypatch.setattr(distill, "kept_divergence", counted)
    monkeypatch.setattr(linear_cross_entropy, "CHUNK", 4 * 400)
    objective.loss(policy, lessons)
    assert max(seen) <= 4
    assert sum(seen) == sum(len(lesson.ids) for lesson in lessons)


@pytest.mark.parametrize("shape", ["hint", "system"])
def test_targets_are_those_of_the_teachers_whole_chat(
    distilling: TrainOptions, tmp_path: Path, shape: str
) -> None:
    settings: dict[str, Any] = {"top": 0}
    if shape == "system":
        (tmp_path / "prompt.txt").write_text("Reply with the tool call as JSON. Be brief.")
        settings["teacher_prompt"] = str(tmp_path / "prompt.txt")
    objective = Distill(material_of(distilling, **settings))
    assert (len(objective.shared) > 10) == (shape == "system")
    policy = grey_policy(objective.material.setup)
    (lesson, *_) = objective.batch(policy, 0)
    answer = lesson.row.ids[lesson.row.start :]
    example = next(
        e
        for e in objective.data.train
        if tuple(objective.chat.tail_ids(e.prompt)) == lesson.row.ids[: lesson.row.start]
    )
    ids = objective.prompt.ids(objective.chat, example.prompt)
    with torch.no_grad():
        whole = text_policy(objective.material.setup.parts)(
            torch.tensor([[*ids, *answer[:-1]]]), len(answer)
        )[0]
    expected = whole.log_softmax(-1).gather(-1, lesson.ids.long())
    assert torch.allclose(lesson.logprobs, expected, atol=1e-4)
    # Greedy: each token of the answer is the teacher's likeliest.
    assert lesson.ids[:, 0].tolist() == list(answer)


def test_the_picture_comes_nearer_to_the_teacher(distilling: TrainOptions) -> None:
    result = train(replace(distilling, steps=20, lr=1.0, batch_size=12))
    losses = [line["loss"] for line in metrics(result.out) if "loss" in line]
    assert losses[-1] < losses[0]
    measured = json.loads((result.out / "run.json").read_text())["result"]["measured"]
    teacher, student = measured["teacher"], measured["student"]
    assert 0 <= student["accuracy"] <= 1
    assert min(teacher["prefill_seconds"], student["prefill_seconds"]) > 0
    assert student["prompt_tokens"] > 4


def test_an_interrupted_run_goes_on_bit_for_bit(
    distilling: TrainOptions, check_resumed: Check
) -> None:
    check_resumed(distilling)


def test_a_run_is_not_resumed_with_another_teacher(
    distilling: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Be brief.")
    asked = replace(distilling, settings={"teacher_prompt": str(prompt)})
    interrupted(asked, monkeypatch)
    prompt.write_text("Be long.")
    with pytest.raises(OptionError, match="teacher_sha256"):
        train(replace(asked, resume=True))


def test_no_weight_changes(distilling: TrainOptions, check_frozen: Check) -> None:
    check_frozen(replace(distilling, steps=2))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"answers": "techer"}, OptionError, "did you mean 'teacher'"),
        ({"tops": 3}, OptionError, "did you mean 'top'"),
        ({"top": "many"}, OptionError, "whole number"),
        ({"top": -1}, OptionError, "top = -1"),
        ({"teacher_prompt": "missing.txt"}, DataError, "missing.txt"),
        ({"engine": "onnxruntime"}, OptionError, "without --bundle"),
    ],
)
def test_bad_settings_are_told_and_nothing_is_written(
    distilling: TrainOptions, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(replace(distilling, settings=settings))
    assert not distilling.out.exists()
