"""An objective that is a function of the policy and a batch of answers from the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch

from training.batches import Batch, Row, batch_indices, collate
from training.encoding import long_answers
from training.objectives.base import Loss, Material, Objective
from training.policy import Policy, device_of
from training.scoring import Score, score

LossFunction = Callable[[Policy, Batch], torch.Tensor]
"""(policy, batch) -> loss without shape: a mean over the batch's answer tokens."""


class Supervised(Objective):
    """`function` on batches of `train`; scored by exact answers on `validation`."""

    needs_picture: ClassVar[bool] = False

    def __init__(
        self,
        function: LossFunction,
        train: Sequence[Row],
        validation: Sequence[Row],
        batch_size: int,
        seed: int,
    ) -> None:
        self.function, self.train, self.validation = function, train, validation
        self.batch_size, self.seed = batch_size, seed

    @classmethod
    def of(cls, function: LossFunction, material: Material) -> Supervised:
        """On the answers that the data gives.

        Raises:
            PromptError: an example does not fit the model.
        """
        data = material.setup.data
        train, validation = material.rows(data.train), material.rows(data.validation)
        made = cls(function, train, validation, material.batch_size, material.seed)
        note = long_answers([*train, *validation], data.source.max_new_tokens)
        made.notes = (note,) if note else ()
        return made

    def batch(self, policy: Policy, step: int) -> Sequence[Row]:
        picked = batch_indices(len(self.train), self.batch_size, self.seed, step)
        return [self.train[index] for index in picked]

    def weight(self, part: Sequence[Row]) -> float:
        return sum(len(row.ids) - row.start for row in part)

    def loss(self, policy: Policy, part: Sequence[Row]) -> Loss:
        return Loss(self.function(policy, collate(part, device_of(policy))))

    def score(self, policy: Policy) -> Score:
        return score(policy, self.validation, self.batch_size)
