"""Soft prompts as peft saves them; what they do to a model is tested where they are trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engines.adapter import CONFIG_NAME, SOFT_PROMPT, WEIGHTS_NAME
from engines.errors import DataError
from engines.soft_prompt import TENSOR, load_soft_prompt


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    (folder / CONFIG_NAME).write_text(json.dumps({"peft_type": SOFT_PROMPT}))
    save_file(tensors, folder / WEIGHTS_NAME)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_vectors(tmp_path: Path, dtype: torch.dtype) -> None:
    vectors = torch.arange(12).reshape(3, 4).to(dtype)
    found = load_soft_prompt(write(tmp_path, {TENSOR: vectors}), 4)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.arange(12).reshape(3, 4))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({TENSOR: torch.ones(3, 5)}, r"shape \(3, 5\)"),
        ({TENSOR: torch.ones(4)}, r"shape \(4,\)"),
        ({TENSOR: torch.ones(0, 4)}, r"shape \(0, 4\)"),
        ({"other": torch.ones(3, 4)}, "shape none"),
        ({TENSOR: torch.full((3, 4), float("nan"))}, "not finite"),
    ],
)
def test_others_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_soft_prompt(write(tmp_path, tensors), 4)
