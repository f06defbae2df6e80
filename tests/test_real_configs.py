"""The configurations have the sizes of the published models."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.real_configs import REAL_CONFIGS, real_config

PARAMETERS = {
    "Qwen3.5-0.8B": 852_985_920,
    "Qwen3-VL-2B": 2_127_532_032,
    "Qwen2.5-VL-3B": 3_754_622_976,
}
"""Of the published weights, tied ones once and multi-token prediction left out."""


@pytest.mark.parametrize("name", REAL_CONFIGS)
def test_parameters(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(real_config(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
