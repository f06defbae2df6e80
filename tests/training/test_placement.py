"""Layers on disk, on the CPU, against the model in one place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.chat import Chat
from engines.errors import OptionError
from engines.families import FAMILIES, load_parts, picture_layout
from engines.families.parts import Parts
from engines.model import load_model, resolve_model
from tests.models import tiny_model
from training.batches import Row, collate
from training.memory import lighten
from training.objectives.sft import loss
from training.options import TrainOptions
from training.placement import is_placed, placed
from training.policy import picture_policy
from training.run import train

SPREAD = {"model.language_model.layers.0": "disk", "model.language_model.layers.1": "cpu"}


def write(path: Path, places: dict[str, Any]) -> str:
    path.write_text(json.dumps(places))
    return str(path)


def parts_of(folder: Path) -> Parts:
    model = load_model(resolve_model(str(folder)))
    return load_parts(model, 2 * picture_layout(model.config).unit)


def on_meta(parts: Parts, layer: int) -> bool:
    layers: Any = parts.decoder.layers
    return bool(next(layers[layer].parameters()).is_meta)


def gradient(folder: Path, parts: Parts) -> torch.Tensor:
    size = parts.picture_size
    chat = Chat.load(folder, size)
    rows = [
        Row((*ids, *chat.answer_ids(answer)), len(ids))
        for answer, ids in ((text, chat.tail_ids(text)) for text in ("42", "12 + 30"))
    ]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, size, 3), generator=generator).float().requires_grad_()
    loss(picture_policy(parts, chat, pixels), collate(rows)).backward()
    assert pixels.grad is not None
    return pixels.grad


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_through_layers_on_disk_are_the_plain_ones(family: str, tmp_path: Path) -> None:
    folder = tiny_model(family, tmp_path / family)
    expected = gradient(folder, parts_of(folder))
    assert expected.any()
    parts = parts_of(folder)
    count = len(list(parts.decoder.layers))  # type: ignore[arg-type]
    spread = {**{f"layers.{index}": "cpu" for index in range(count)}, "layers.0": "disk"}
    with placed(parts, "cpu", write(tmp_path / "map.json", spread)) as loaded_at_use:
        assert loaded_at_use
        assert on_meta(parts, 0)
        assert not on_meta(parts, 1)
        light = lighten(parts, recompute=True)
        assert torch.equal(gradient(folder, light), expected)
        assert on_meta(parts, 0)


@pytest.fixture
def options(tiny_model_dir: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(
        model=str(tiny_model_dir),
        task="tools",
        out=tmp_path / "run",
        size=64,
        steps=2,
        batch_size=2,
        examples=8,
        validation_examples=2,
        validate_every=1,
        controls=False,
    )


def test_a_run_with_layers_on_disk_gives_the_same_picture(
    options: TrainOptions, tmp_path: Path
) -> None:
    plain = train(options)
    spread = write(tmp_path / "map.json", SPREAD)
    result = train(replace(options, out=tmp_path / "spread", device_map=spread))
    assert result.picture_sha256 == plain.picture_sha256
    assert result.loss == plain.loss
    record = json.loads((tmp_path / "spread" / "run.json").read_text())
    assert record["options"]["recompute"]


def test_auto_on_a_machine_without_gpus_is_main_memory(tiny_model_dir: Path) -> None:
    parts = parts_of(tiny_model_dir)
    assert not is_placed(parts)
    with placed(parts, "cpu", "auto") as loaded_at_use:
        assert not loaded_at_use
        assert is_placed(parts)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"model.language_model.layers.0": "disk"}, "without layer 1"),
        ({**SPREAD, "layers.2": "cpu"}, "with 3 layers"),
        ({**SPREAD, "lm_head": "cudda"}, "cudda"),
        ([1, 2], "cannot be read"),
    ],
)
def test_bad_maps_are_told(
    options: TrainOptions, tmp_path: Path, places: Any, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        train(replace(options, device_map=write(tmp_path / "map.json", places)))
    assert not options.out.exists()


def test_answers_are_not_written_by_a_model_that_is_spread(
    options: TrainOptions, tmp_path: Path
) -> None:
    spread = write(tmp_path / "map.json", SPREAD)
    with pytest.raises(OptionError, match="--bundle"):
        train(replace(options, objective="grpo", device_map=spread))
