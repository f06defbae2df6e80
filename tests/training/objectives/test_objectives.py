from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from engines.errors import OptionError
from engines.picture import load_picture
from tests.training.objectives.conftest import metrics
from training.objectives import OBJECTIVES, load_objective
from training.objectives.grpo import Settings as GrpoSettings
from training.options import TrainOptions
from training.run import train


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_name_in_the_table_leads_to_a_function(name: str) -> None:
    assert callable(load_objective(name))


def test_an_unknown_objective_is_answered_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'sft'"):
        load_objective("stf")


def test_the_documented_objective_trains(options: TrainOptions, tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    (code,) = re.findall(r"```python\n(# own\.py\n.*?)```", text, re.DOTALL)
    (tmp_path / "own.py").write_text(code)
    name = f"{tmp_path}/own.py:focal"
    result = train(replace(options, objective=name, steps=12, lr=1.0, batch_size=12))
    losses = [line["loss"] for line in metrics(result.out) if "loss" in line]
    assert losses[-1] < losses[0]
    record = json.loads((result.out / "run.json").read_text())
    assert record["facts"] == {"source_sha256": hashlib.sha256(code.encode()).hexdigest()}
    provenance = load_picture(result.picture).provenance
    assert provenance is not None
    assert provenance.objective == name


def test_every_name_and_setting_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    assert all(f"`{name}`" in text for name in OBJECTIVES)
    own = {"engine", "bundle", "reward", "url"}  # have options or a paragraph of their own
    assert all(f"`{item.name}`" in text for item in fields(GrpoSettings) if item.name not in own)


def test_accumulating_gives_the_step_of_the_whole(options: TrainOptions, tmp_path: Path) -> None:
    whole = replace(options, steps=1, batch_size=6)
    train(whole)
    train(replace(whole, accumulate=3, out=tmp_path / "parts"))
    (one,), (two,) = (
        [line for line in metrics(folder) if "loss" in line]
        for folder in (whole.out, tmp_path / "parts")
    )
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
    assert one["gradient_norm"] == pytest.approx(two["gradient_norm"], rel=1e-3)


CLASS = """
from dataclasses import dataclass

from training.objectives import Loss, Objective
from training.objectives.base import parse_settings
from training.objectives.sft import loss as sft
from training.objectives.supervised import Supervised


@dataclass(frozen=True)
class Settings:
    scale: float = 1.0


class Scaled(Supervised):
    def __init__(self, material):
        made = Supervised.of(sft, material)
        super().__init__(sft, made.train, made.validation, made.batch_size, made.seed)
        self.scale = parse_settings(Settings, material.settings).scale

    def loss(self, policy, part):
        found = super().loss(policy, part)
        return Loss(found.value * self.scale, {"plain": float(found.value.detach())})
"""


def test_a_class_of_ones_own_has_settings_and_metrics(
    options: TrainOptions, tmp_path: Path
) -> None:
    (tmp_path / "scaled.py").write_text(CLASS)
    name = f"{tmp_path}/scaled.py:Scaled"
    train(replace(options, objective=name, steps=1, settings={"scale": "3"}))
    (line,) = [line for line in metrics(options.out) if "loss" in line]
    assert line["loss"] == pytest.approx(3 * line["plain"])
    with pytest.raises(OptionError, match="did you mean 'scale'"):
        train(replace(options, objective=name, settings={"scal": 3}, out=tmp_path / "no"))
