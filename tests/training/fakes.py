"""A learner small enough to test the loop in milliseconds: a table of bigram logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from training.batches import Row
from training.loop import LoopOptions
from training.objectives.supervised import LossFunction, Supervised
from training.policy import Policy

VOCABULARY = 7
TRAIN = [Row((1, 2, 3, 4), 1), Row((2, 3, 4, 5, 6), 2), Row((5, 6, 1), 1), Row((4, 5, 6), 2)]
VALIDATION = [Row((1, 2, 3), 1), Row((3, 4, 5, 6), 1)]


def objective_of(function: LossFunction) -> Supervised:
    return Supervised(function, TRAIN, VALIDATION, batch_size=3, seed=0)


class BigramLearner:
    """Logits of the next token given the last one, trained with Adam."""

    def __init__(self, folder: Path, lr: float = 0.1) -> None:
        self.table = torch.zeros(VOCABULARY, VOCABULARY, requires_grad=True)
        self.adam = torch.optim.Adam([self.table], lr=lr)
        self.lr, self.file = lr, folder / "best.json"
        self.kept: list[int] = []

    def policy(self, step: int) -> Policy:
        return lambda input_ids, keep: self.table[input_ids][:, -keep:]

    def collect(self) -> dict[str, float]:
        gradient = self.table.grad
        return {"gradient_norm": 0.0 if gradient is None else float(gradient.norm())}

    def update(self, rate: float) -> None:
        self.adam.param_groups[0]["lr"] = self.lr * rate
        self.adam.step()
        self.adam.zero_grad()

    def candidate(self, step: int) -> Policy:
        return self.policy(step)

    def keep(self, step: int, exact: float) -> None:
        self.kept.append(step)
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(self.table.tolist()))

    def state(self) -> dict[str, Any]:
        return {"table": self.table.detach(), "adam": self.adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.table.copy_(state["table"])
        self.adam.load_state_dict(state["adam"])


def loop_options(steps: int = 12, **changes: Any) -> LoopOptions:
    values = {
        "schedule": "cosine",
        "validate_every": 4,
        "checkpoint_every": 5,
    }
    return LoopOptions(steps=steps, **{**values, **changes})
