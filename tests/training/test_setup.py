"""A model put on a GPU for a run: the first steps are those on a CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.tensorrt_library import no_cuda
from training.baselines.lora import train_lora
from training.baselines.soft_prompt import train_soft_prompt
from training.options import LoraOptions, SoftPromptOptions, TrainOptions
from training.run import train

pytestmark = pytest.mark.skipif(no_cuda() is not None, reason=str(no_cuda()))
COMMON: dict[str, Any] = {
    "task": "tools",
    "steps": 2,
    "batch_size": 3,
    "examples": 12,
    "validation_examples": 4,
}
OBJECTIVES: dict[str, dict[str, str]] = {
    "sft": {},
    "distill": {},
    "grpo": {"group": "2", "max_new_tokens": "6"},
}
"""Objective -> its settings."""


def _losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [step["loss"] for step in map(json.loads, lines) if "loss" in step]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_picture(tiny_model_dir: Path, tmp_path: Path, objective: str) -> None:
    on_cpu = TrainOptions(
        model=str(tiny_model_dir), out=tmp_path / "cpu", size=64, objective=objective,
        settings=OBJECTIVES[objective], controls=False, **COMMON,
    )  # fmt: skip
    train(on_cpu)
    train(replace(on_cpu, out=tmp_path / "cuda", device="cuda"))
    np.testing.assert_allclose(_losses(tmp_path / "cuda"), _losses(tmp_path / "cpu"), atol=1e-3)


def test_bf16_and_recomputation(tiny_model_dir: Path, tmp_path: Path) -> None:
    options = TrainOptions(
        model=str(tiny_model_dir), out=tmp_path / "cuda", size=64, controls=False, device="cuda",
        **COMMON,
    )  # fmt: skip
    train(options)
    light = replace(options, out=tmp_path / "light", precision="bf16", recompute=True)
    train(light)
    np.testing.assert_allclose(_losses(light.out), _losses(options.out), rtol=0.02)


@pytest.mark.parametrize("kind", ["lora", "soft-prompt"])
def test_a_baseline(tiny_model_dir: Path, tmp_path: Path, kind: str) -> None:
    """First values are drawn on the device: what can be told is that the loss falls."""
    common = {**COMMON, "steps": 12, "model": str(tiny_model_dir), "out": tmp_path / kind}
    if kind == "lora":
        train_lora(LoraOptions(device="cuda", **common))
    else:
        train_soft_prompt(SoftPromptOptions(device="cuda", **common))
    losses = _losses(tmp_path / kind)
    assert losses[-1] < losses[0]
