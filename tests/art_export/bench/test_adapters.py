"""Adapters to measure with: files of their own, of the kind and size of trained ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from art_export.bench.adapters import onnx_adapters, pictures, soft_prompts
from art_export.bench.settings import BenchOptions
from engines.adapter import LORA, adapter_to_bytes
from engines.files import write_bytes, write_json
from engines.onnxruntime_lora import LORA_B, read_onnx_adapter
from engines.picture import load_picture
from engines.soft_prompt import load_soft_prompt


@pytest.fixture
def options(tiny_model_dir: Path, tiny_bundle_dir: Path, tmp_path: Path) -> BenchOptions:
    found = BenchOptions(str(tiny_model_dir), tmp_path, tokens=3)
    shutil.copytree(tiny_bundle_dir, found.bundle)
    return found


def _lora(folder: Path, value: float) -> Path:
    import torch

    name = "base_model.model.layer.lora_"
    tensors = {
        f"{name}A.weight": torch.ones(2, 4),
        f"{name}B.weight": torch.full((5, 2), value),
    }
    write_bytes(folder / "adapter_model.safetensors", adapter_to_bytes(tensors, "0"))
    write_json(folder / "adapter_config.json", {"peft_type": LORA, "r": 2, "lora_alpha": 6})
    return folder


def test_adapters_of_one_name_are_two_files(options: BenchOptions, tmp_path: Path) -> None:
    folders = [_lora(tmp_path / task / "lora" / "adapter", n) for n, task in ((1, "a"), (2, "b"))]
    paths = onnx_adapters(options, folders)
    read = [read_onnx_adapter(path) for path in paths]
    values = [adapter[LORA_B + "layer"].numpy() for adapter in read]
    assert [float(value.max()) for value in values] == [3.0, 6.0]
    assert values[0].shape == (1, 2, 5)
    assert onnx_adapters(options, folders) == paths


def test_random_adapters_differ_and_can_be_read(options: BenchOptions) -> None:
    images = [load_picture(path, 64).pixels for path in pictures(options, 2)]
    assert not np.array_equal(images[0], images[1])
    vectors = [load_soft_prompt(path, 64) for path in soft_prompts(options, 2)]
    assert vectors[0].shape == (3, 64)
    assert not np.array_equal(vectors[0], vectors[1])
