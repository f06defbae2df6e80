"""Adapters that do not belong to the model; right ones are tested where they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from engines.errors import DataError
from engines.lora import linear_layers, merge, save_merged
from engines.model import load_model, resolve_model


def load(folder: Path) -> Any:
    return load_model(resolve_model(str(folder)))


def adapter(folder: Path, out: Path, base: str) -> Path:
    """An adapter of rank 2 that changes every linear layer."""
    model = load(folder)
    config = peft.LoraConfig(r=2, target_modules=linear_layers(model), base_model_name_or_path=base)
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.fill_(0.01)
    wrapped.peft_config["default"].base_model_name_or_path = base
    wrapped.save_pretrained(str(out))
    return out


def test_one_for_a_model_of_another_shape(tiny_model_dir: Path, tmp_path: Path) -> None:
    made = adapter(tiny_model_dir, tmp_path / "adapter", "tiny")
    with pytest.raises(DataError, match="does not fit this model"):
        merge(load_model(resolve_model("demo")), made)


def test_one_for_a_model_of_another_name(tiny_model_dir: Path, tmp_path: Path) -> None:
    made = adapter(tiny_model_dir, tmp_path / "adapter", "Qwen/Qwen3-VL-2B")
    with pytest.raises(DataError, match="trained for Qwen/Qwen3-VL-2B"):
        save_merged(str(tiny_model_dir), made, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
