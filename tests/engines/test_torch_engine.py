"""PyTorch's engine in other dtypes than fp32, against Hugging Face's forward in the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.chat import Chat
from engines.errors import OptionError
from engines.model import ModelSource
from engines.reference import Reference
from engines.runtime import Runtime
from engines.torch_engine import TorchEngine

SIZE = 64


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-4), ("fp16", 0.02), ("bf16", 0.15)])
def test_dtypes(tiny_model_dir: Path, dtype: str, tolerance: float) -> None:
    source = ModelSource("tiny", tiny_model_dir)
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    engine = TorchEngine.from_source(source, SIZE, dtype)
    runtime = Runtime(engine, Chat.load(tiny_model_dir, SIZE))
    prefix = runtime.prefix(pixels)
    tail = runtime.tail("Anna has 12 apples. How many?", prefix)
    found = runtime.tail_logits(tail, prefix)
    reference = Reference(source, dtype)
    expected = reference.prefill_logits("Anna has 12 apples. How many?", pixels)[-len(tail) :]
    scale = np.abs(expected).max()
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= tolerance * scale


def test_a_device_that_is_not_there(tiny_model_dir: Path) -> None:
    with pytest.raises(OptionError, match="meteor"):
        TorchEngine.from_source(ModelSource("tiny", tiny_model_dir), SIZE, device="meteor")
