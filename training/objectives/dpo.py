"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290, eq. 7).

-log sigmoid(beta ((log p(chosen) - log r(chosen)) - (log p(rejected) - log r(rejected)))), p the
model under the picture, r the reference.

Departure: the published reference is the policy that training starts from. Here it is the model
without any picture, which is what a user has before there is one, and does not depend on the
picture that training happens to start from. So the loss does not start at log 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch.nn import functional as F

from engines.errors import DataError, OptionError
from training.batches import Lazy, Row, batch_indices
from training.encoding import text_alone
from training.likelihood import answer_logprobs
from training.objectives.base import Loss, Material, Objective, parse_settings
from training.policy import Policy, text_policy
from training.scoring import Score
from training.tasks import Example


@dataclass(frozen=True)
class Settings:
    """beta: how dearly distance from the reference is paid."""

    beta: float = 0.1


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, and how likely the reference finds each."""

    chosen: Row
    rejected: Row
    chosen_reference: float
    rejected_reference: float


class Dpo(Objective):
    """Preference pairs; scored by how many pairs are told apart."""

    def __init__(self, material: Material) -> None:
        self.beta = parse_settings(Settings, material.settings).beta
        if not 0 < self.beta < float("inf"):
            raise OptionError(f"beta = {self.beta}", "a number above 0", "give another beta")
        self.material, data = material, material.setup.data
        _check_pairs((*data.train, *data.validation), data.source.name)
        with torch.no_grad():
            self.reference = text_policy(material.setup.parts)
        self.train, self.validation = self._lazy(data.train), self._lazy(data.validation)

    def batch(self, policy: Policy, step: int) -> Sequence[Pair]:
        size, seed = self.material.batch_size, self.material.seed
        return [self.train[i] for i in batch_indices(len(self.train), size, seed, step)]

    def loss(self, policy: Policy, part: Sequence[Pair]) -> Loss:
        chosen, rejected = self._gains(policy, part)
        margin = self.beta * (chosen - rejected)
        measured = {
            "preferred": (margin > 0).float().mean(),
            "margin": margin.mean(),
            "chosen_gain": chosen.mean(),
            "rejected_gain": rejected.mean(),
        }
        metrics = {name: float(value.detach()) for name, value in measured.items()}
        return Loss(-F.logsigmoid(margin).mean(), metrics)

    @torch.no_grad()
    def score(self, policy: Policy) -> Score:
        """exact: share of validation pairs whose chosen answer has gained more, over the
        reference, than the rejected one. loss: the objective's own."""
        size, count = self.material.batch_size, len(self.validation)
        margins: list[float] = []
        for first in range(0, count, size):
            part = [self.validation[index] for index in range(first, min(first + size, count))]
            chosen, rejected = self._gains(policy, part)
            margins += (self.beta * (chosen - rejected)).tolist()
        loss = -F.logsigmoid(torch.tensor(margins)).mean()
        return Score(fmean(margin > 0 for margin in margins), float(loss))

    def _gains(self, policy: Policy, part: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
        """log p - log r of the chosen and the rejected answers, (pairs,) each."""
        rows = [pair.chosen for pair in part] + [pair.rejected for pair in part]
        known = [pair.chosen_reference for pair in part]
        known += [pair.rejected_reference for pair in part]
        gains = answer_logprobs(policy, rows)
        chosen, rejected = (gains - torch.tensor(known, device=gains.device)).chunk(2)
        return chosen, rejected

    def _lazy(self, examples: Sequence[Example]) -> Lazy[Pair]:
        chosen = self.material.rows(examples)
        rejected = self.material.rows([_worse(example) for example in examples])

        def make(group: Sequence[int]) -> list[Pair]:
            answers = [examples[index] for index in group]
            known = self._referred(answers), self._referred([_worse(e) for e in answers])
            rows = [chosen[index] for index in group], [rejected[index] for index in group]
            return [Pair(*pair) for pair in zip(*rows, *known, strict=True)]

        return Lazy(len(examples), self.material.seed, self.material.batch_size, make)

    @torch.no_grad()
    def _referred(self, examples: Sequence[Example]) -> list[float]:
        rows = [text_alone(self.material.setup.chat, example) for example in examples]
        found: list[float] = answer_logprobs(self.reference, rows).tolist()
        return found


def _worse(example: Example) -> Example:
    return Example(example.prompt, example.rejected or "", example.content)


def _check_pairs(examples: Sequence[Example], name: str) -> None:
    without = next((example for example in examples if example.rejected is None), None)
    if without is not None:
        raise DataError(
            got=f"{name} with an answer that has no worse one beside it: {without.prompt[:60]!r}",
            expected='lines like {"prompt": "...", "chosen": "...", "rejected": "..."}',
            fix="use a JSONL file of pairs with the objective dpo",
        )
