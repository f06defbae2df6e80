"""Short runs with every objective on the tiny model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import training.run as run_module
from engines.model import load_model, resolve_model, weights_sha256
from training.interruption import Interrupted
from training.objectives import Material, make_objective
from training.objectives.base import Loss, Objective
from training.options import TrainOptions
from training.picture import grey_start
from training.policy import Policy, PrefixPolicy, picture_policy
from training.run import train
from training.setup import Setup, load_setup

SIZE = 64
Check = Callable[[TrainOptions], None]


@pytest.fixture
def options(tiny_model_dir: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(
        model=str(tiny_model_dir),
        task="tools",
        out=tmp_path / "run",
        size=SIZE,
        steps=5,
        batch_size=3,
        examples=12,
        validation_examples=4,
        validate_every=2,
        checkpoint_every=2,
        controls=False,
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def material_of(options: TrainOptions, **settings: Any) -> Material:
    setup = load_setup(options, SIZE)
    prefix = len(setup.chat.prefix_ids())
    return Material(setup, options.batch_size, options.seed, prefix=prefix, settings=settings)


def grey_policy(setup: Setup) -> PrefixPolicy:
    pixels = torch.tensor(grey_start(setup.parts.picture_size, 0)).float()
    return picture_policy(setup.parts, setup.chat, pixels.requires_grad_())


class Interrupting:
    """An objective that sends SIGINT at its third step."""

    def __init__(self, inner: Objective) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def batch(self, policy: Policy, step: int) -> Any:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return self.inner.batch(policy, step)

    def loss(self, policy: Policy, part: Any) -> Loss:
        return self.inner.loss(policy, part)


def interrupted(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that stops after its third step."""
    with monkeypatch.context() as patch:
        patch.setattr(
            run_module,
            "make_objective",
            lambda found, material: Interrupting(make_objective(found, material)),
        )
        with pytest.raises(Interrupted):
            train(options)


@pytest.fixture
def check_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """A run that was interrupted and resumed is, bit for bit, the uninterrupted one."""

    def check(options: TrainOptions) -> None:
        whole = train(replace(options, out=tmp_path / "whole"))
        interrupted(options, monkeypatch)
        resumed = train(replace(options, resume=True))
        assert resumed.picture_sha256 == whole.picture_sha256
        assert metrics(options.out) == metrics(tmp_path / "whole")
        assert (options.out / "art.png").read_bytes() == (
            tmp_path / "whole" / "art.png"
        ).read_bytes()

    return check


@pytest.fixture
def check_frozen(monkeypatch: pytest.MonkeyPatch) -> Check:
    """Training changes no weight, in memory or on disk."""

    def check(options: TrainOptions) -> None:
        loaded: list[Any] = []

        def load(source: Any) -> Any:
            loaded.append(load_model(source))
            return loaded[-1]

        before = weights_sha256(Path(options.model))
        untouched = load_model(resolve_model(options.model)).state_dict()
        with monkeypatch.context() as patch:
            patch.setattr("training.setup.load_model", load)
            train(options)
        after = loaded[0].state_dict()
        assert all(torch.equal(untouched[name], after[name]) for name in untouched)
        assert all(weight.grad is None for weight in loaded[0].parameters())
        assert weights_sha256(Path(options.model)) == before

    return check
