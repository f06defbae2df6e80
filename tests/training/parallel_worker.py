"""What each of several processes does in test_processes.py: runs, one after the other.

    python -m torch.distributed.run --standalone --nproc-per-node 2 \
        -m tests.training.parallel_worker TASKS.json

TASKS.json lists {"name", "options", "event"}; each process leaves FOLDER/<name>-<index>.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import training.run as run_module
from engines.errors import ArtExportError
from engines.model import load_model
from training import processes
from training.batches import Batch
from training.objectives.sft import loss as sft
from training.options import TrainOptions
from training.policy import Policy

SEEN: list[Any] = []
"""Models and learners of the run that is under way."""


def hashed(model: Any) -> str:
    """SHA-256 of all weights in memory."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def failing_at(step: int, event: str) -> Any:
    """The sft objective, to which something happens in the second process alone."""
    calls = 0

    def loss(policy: Policy, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        value = sft(policy, batch)
        if calls == step and processes.index() == 1:
            if event == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                value = value * float("nan")
        return value

    return loss


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One run: what it came to in this process."""
    options = TrainOptions(**{**task["options"], "out": Path(task["options"]["out"])})
    SEEN.clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            if task.get("event"):
                patch.setattr(run_module, "load_objective", lambda _: failing_at(3, task["event"]))
            result = run_module.train(options)
    except ArtExportError as error:
        return {"error": type(error).__name__, "message": str(error)}
    (before, model), learner = SEEN
    return {
        "error": None,
        "picture": learner.picture().detach().int().flatten().tolist(),
        "score": result.score,
        "loss": result.loss,
        "sha256": result.picture_sha256,
        "unchanged": before == hashed(model),
        "gradients": sum(weight.grad is not None for weight in model.parameters()),
    }


def watch(patch: pytest.MonkeyPatch) -> None:
    """Keep the model, its hash as it was loaded, and the learner of every run."""
    make_learner = run_module.make_learner

    def loading(source: Any) -> Any:
        model = load_model(source)
        SEEN.append((hashed(model), model))
        return model

    def learning(*given: Any) -> Any:
        SEEN.append(make_learner(*given))
        return SEEN[-1]

    patch.setattr("training.setup.load_model", loading)
    patch.setattr(run_module, "make_learner", learning)


def main() -> None:
    processes.join()
    watch(pytest.MonkeyPatch())
    path = Path(sys.argv[1])
    for task in json.loads(path.read_text()):
        found = run(task)
        (path.parent / f"{task['name']}-{processes.index()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
