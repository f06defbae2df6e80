"""Qwen2-VL: colours, and configurations as they lie on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.families import load_parts, picture_layout
from engines.model import ModelSource, load_config
from engines.reference import Reference
from tests.models import CLIP_MEAN, CLIP_STD, TINY, tiny_model

SIZE = TINY["qwen2_vl"].size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("qwen2_vl", tmp_path_factory.mktemp("tiny") / "model")


def test_colours_are_normalised_as_for_clip(folder: Path) -> None:
    """One grey picture, by hand: patches hold the channels one after another."""
    parts = load_parts(Reference(ModelSource("tiny", folder)).model, SIZE)
    grey = torch.full((1, SIZE, SIZE, 3), 100, dtype=torch.uint8)
    found = parts.vision.patches(grey)[0].view(-1, 3, 2 * 14 * 14)
    for channel in range(3):
        expected = (100 / 255 - CLIP_MEAN[channel]) / CLIP_STD[channel]
        np.testing.assert_allclose(found[:, channel], expected, atol=1e-6)


def test_usual_size(folder: Path) -> None:
    layout = picture_layout(load_config(folder))
    assert (layout.size, layout.unit, layout.tokens) == (252, 28, 81)


def test_a_flat_configuration(folder: Path, tmp_path: Path) -> None:
    """Older models have the language model's values at the top of config.json."""
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = {
        **{key: value for key, value in text.items() if key != "model_type"},
        **config,
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "vision_config": {**config["vision_config"], "model_type": "qwen2_vl"},
    }
    (tmp_path / "config.json").write_text(json.dumps(flat))
    loaded = load_config(tmp_path)
    assert picture_layout(loaded, SIZE).tokens == 9
    assert loaded.text_config.hidden_size == text["hidden_size"]
    assert loaded.text_config.rope_parameters["mrope_section"] == rope["mrope_section"]
