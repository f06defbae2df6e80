"""Context distillation into a picture: the picture learns to stand for a long prompt in words.

The teacher is the same frozen model with the prompt (instructions, examples, tool schemas); the
student sees the picture in its place. The loss is KL(teacher || student) on the tokens of the
answer (Askell et al., arXiv 2112.00861, section 2.2.1; Snell et al., arXiv 2209.15189).

Choices:
- The answers are the teacher's own greedy ones: no reference answer is needed, and they are what
  the teacher's distributions are about. `answers=reference` takes the data's.
- Forward KL, so that one pass of the teacher over fixed answers gives every target exactly and
  without sampling noise. It is computed once and kept.
- Of each distribution the `top` likeliest tokens are kept and the rest is one bucket. That is a
  lower bound of the whole KL (merging outcomes cannot raise it) which is short of it only by how
  teacher and student differ among tokens that the teacher finds unlikely; for a vocabulary of
  248,000 it needs 1/1,200 of the memory. `top=0` keeps all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engines.errors import OptionError
from engines.names import choose
from engines.prefix import PrefixState
from engines.sampling import Sample, SamplingOptions, sample
from training.batches import Lazy, Row, batch_indices, collate
from training.encoding import check_room
from training.likelihood import losses_of_answers
from training.objectives.base import Loss, Material, Objective, parse_settings
from training.policy import Policy, device_of, text_policy
from training.rollouts import open_runtime, pixels_of, text_prefix
from training.scoring import Score, score
from training.tasks import Example
from training.teacher import load_teacher, shared_start

GROUP = 64
"""Answers that the teacher writes at once."""
GREEDY = SamplingOptions(temperature=0.0)
TIMED = 5
"""Prompts of which the time to read them is measured, one by one."""


@dataclass(frozen=True)
class Settings:
    """teacher_prompt: a file, see `training.teacher`. answers: "teacher" or "reference".
    top: how many tokens of a distribution are kept, 0 for all. engine, bundle: what writes the
    teacher's answers, see `training.rollouts`."""

    teacher_prompt: str | None = None
    answers: str = "teacher"
    top: int = 100
    engine: str | None = None
    bundle: str | None = None


@dataclass(frozen=True)
class Lesson:
    """One answer. `row` is as the student reads it.

    ids: int32 (answer, k), tokens that the teacher finds likeliest. logprobs: fp32 (answer, k).
    """

    row: Row
    ids: torch.Tensor
    logprobs: torch.Tensor


class Distill(Objective):
    """The teacher's distributions as targets; scored by how many of its answers are met exactly."""

    def __init__(self, material: Material) -> None:
        self.settings = parse_settings(Settings, material.settings)
        choose("answers", self.settings.answers, ("teacher", "reference"))
        if self.settings.top < 0:
            raise OptionError(
                got=f"top = {self.settings.top}",
                expected="a whole number from 0 up",
                fix="give another top",
            )
        self.material, setup = material, material.setup
        self.source, self.data, self.chat = setup.data.source, setup.data, setup.chat
        self.prompt = load_teacher(self.source, self.settings.teacher_prompt)
        asked = [self._asked(e) for e in (*self.data.train, *self.data.validation)]
        self.shared = asked[0][: shared_start(asked)]
        self.tails = {e: ids[len(self.shared) :] for e, ids in self._pairs(asked)}
        seen = [self.chat.tail_ids(example.prompt) for example in self.tails]
        check_room(self.chat, asked, 0, self.source.max_new_tokens)
        check_room(self.chat, seen, material.prefix, self.source.max_new_tokens)
        self.runtime = open_runtime(setup, self.settings.engine, self.settings.bundle)
        with torch.no_grad():
            self.teacher = text_policy(setup.parts, self.shared)
        self.before = text_prefix(self.runtime, self.shared)
        self.train = self._lazy(self.data.train)
        self.validation = self._lazy(self.data.validation)

    def batch(self, policy: Policy, step: int) -> Sequence[Lesson]:
        size, seed = self.material.batch_size, self.material.seed
        return [self.train[i] for i in batch_indices(len(self.train), size, seed, step)]

    def weight(self, part: Sequence[Lesson]) -> float:
        return sum(len(lesson.ids) for lesson in part)

    def loss(self, policy: Policy, part: Sequence[Lesson]) -> Loss:
        batch = collate([lesson.row for lesson in part], device_of(policy))
        ids = torch.cat([lesson.ids for lesson in part]).long()
        logprobs = torch.cat([lesson.logprobs for lesson in part])

        def divergence(logits: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
            return kept_divergence(logits, ids[which], logprobs[which])

        return Loss(losses_of_answers(policy, batch, divergence).mean())

    def score(self, policy: Policy) -> Score:
        """exact: share of validation questions that the student answers just as the teacher.
        loss: cross-entropy on the teacher's answers, in nats a token."""
        rows = [self.validation[index].row for index in range(len(self.validation))]
        return score(policy, rows, self.material.batch_size)

    def report(self, policy: Policy) -> dict[str, Any]:
        """Both sides on the validation examples: share right by the task's own scorer, tokens that
        stand before the answer, and median seconds to read them, one prompt at a time.

        The teacher is timed twice: reading its whole prompt, and going on from its part that is
        the same for every question. The student goes on from the picture, which is read once.
        """
        picture = self.runtime.prefix(pixels_of(policy))
        tails = [self.chat.tail_ids(example.prompt) for example in self.data.validation]
        asked = [self._asked(example) for example in self.data.validation]
        after = [ids[len(self.shared) :] for ids in asked]
        nothing = self.runtime.prefix(None)
        return {
            "teacher": {
                "accuracy": self._accuracy(after, self.before),
                "prompt_tokens": statistics.fmean(map(len, asked)),
                "prefill_seconds": self._seconds(asked, nothing),
                "prefill_seconds_after_shared": self._seconds(after, self.before),
                "shared_tokens": len(self.shared),
            },
            "student": {
                "accuracy": self._accuracy(tails, picture),
                "prompt_tokens": picture.length + statistics.fmean(map(len, tails)),
                "prefill_seconds": self._seconds(tails, picture),
            },
        }

    def facts(self) -> dict[str, Any]:
        return {"teacher_sha256": self.prompt.sha256}

    def close(self) -> None:
        self.runtime.engine.close()

    def _asked(self, example: Example) -> list[int]:
        return self.prompt.ids(self.chat, example.prompt)

    def _pairs(self, asked: Sequence[list[int]]) -> list[tuple[Example, list[int]]]:
        return list(zip((*self.data.train, *self.data.validation), asked, strict=True))

    def _lazy(self, examples: Sequence[Example]) -> Lazy[Lesson]:
        def make(group: Sequence[int]) -> list[Lesson]:
            return self._lessons([examples[index] for index in group])

        return Lazy(len(examples), self.material.seed, GROUP, make)

    def _lessons(self, examples: Sequence[Example]) -> list[Lesson]:
        """What the teacher says to `examples`, and how sure it is of each token."""
        answers = self._answers(examples)
        tails = [self.tails[example] for example in examples]
        told = [Row((*ids, *answer), len(ids)) for ids, answer in zip(tails, answers, strict=True)]
        size = self.material.batch_size
        targets = [
            target
            for first in range(0, len(told), size)
            for target in self._targets(told[first : first + size])
        ]
        return [
            Lesson(self._seen(example, answer), *target)
            for example, answer, target in zip(examples, answers, targets, strict=True)
        ]

    @torch.no_grad()
    def _targets(self, told: Sequence[Row]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The likeliest tokens and their logprobs, for every answer in `told`."""
        kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

        def keep(logits: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
            size = logits.shape[-1]
            top = logits.topk(min(self.settings.top or size, size))
            normaliser = logits.logsumexp(-1, keepdim=True)
            kept.append((which, top.indices.int(), top.values - normaliser))
            return normaliser[:, 0]

        losses_of_answers(self.teacher, collate(told, device_of(self.teacher)), keep)
        which, ids, logprobs = (torch.cat(each) for each in zip(*kept, strict=True))
        order, lengths = which.argsort(), [len(row.ids) - row.start for row in told]
        return list(zip(ids[order].split(lengths), logprobs[order].split(lengths), strict=True))

    def _answers(self, examples: Sequence[Example]) -> list[tuple[int, ...]]:
        if self.settings.answers == "reference":
            return [tuple(self.chat.answer_ids(example.answer)) for example in examples]
        tails = [self.tails[example] for example in examples]
        return [drawn.token_ids for drawn in self._greedy(tails, self.before)]

    def _greedy(self, tails: Sequence[Sequence[int]], prefix: PrefixState) -> list[Sample]:
        limit, drawn = self.source.max_new_tokens, list[list[Sample]]()
        for first in range(0, len(tails), GROUP):
            part = tails[first : first + GROUP]
            seeds = [[(0,)] for _ in part]
            drawn += sample(self.runtime, part, [prefix] * len(part), limit, GREEDY, seeds)
        return [one for (one,) in drawn]

    def _seen(self, example: Example, answer: tuple[int, ...]) -> Row:
        ids = self.chat.tail_ids(example.prompt)
        return Row((*ids, *answer), len(ids))

    def _accuracy(self, tails: Sequence[Sequence[int]], prefix: PrefixState) -> float:
        found = self._greedy(tails, prefix)
        pairs = zip(found, self.data.validation, strict=True)
        return statistics.fmean(self.source.is_correct(a.text, e.answer) for a, e in pairs)

    def _seconds(self, tails: Sequence[Sequence[int]], prefix: PrefixState) -> float:
        return statistics.median(
            _timed(lambda tail=tail: self.runtime.prefill([tail], [prefix]))  # type: ignore[misc]
            for tail in tails[:TIMED]
        )


def kept_divergence(
    logits: torch.Tensor, ids: torch.Tensor, logprobs: torch.Tensor
) -> torch.Tensor:
    """KL(teacher || student) in nats, fp32 (positions,), all tokens that were not kept as one.

    Args:
        logits: the student's, fp32 (positions, vocabulary).
        ids, logprobs: the teacher's likeliest tokens, (positions, k).
    """
    student = logits.gather(-1, ids) - logits.logsumexp(-1, keepdim=True)
    divergence = (logprobs.exp() * (logprobs - student)).sum(-1)
    if ids.shape[-1] < logits.shape[-1]:
        rest, left = _rest(logprobs), _rest(student)
        divergence = divergence + rest.exp() * (rest - left)
    return divergence


def _rest(logprobs: torch.Tensor) -> torch.Tensor:
    """log(1 - sum of probabilities); from below, since rounding may make the sum 1."""
    return torch.log1p(-logprobs.logsumexp(-1).exp().clamp(max=1 - 1e-6))


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
