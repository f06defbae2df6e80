"""Pretraining is seeded and resumable, and writes a folder that the Auto classes load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from training.demo_model import architecture, pretrain
from training.demo_model.batches import patchify
from training.demo_model.pretrain import Options, batch_at, make_tokenizer, rate_at, train

SHORT = Options(
    steps=2,
    batch_size=4,
    lr=1e-3,
    seed=0,
    size=64,
    rehearse_steps=1,
    align_steps=1,
    warmup=1,
    cooldown=1,
    validation=4,
)


@pytest.fixture(autouse=True, scope="module")
def two_layers() -> Iterator[None]:
    """One of each kind: on a processor without bf16 the six of them take minutes."""
    with patch.object(architecture, "LAYERS", architecture.LAYERS[:2]):
        yield


@pytest.fixture(scope="module")
def run(two_layers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrain") / "run"
    train(SHORT, out, report_every=4, save_every=1)
    return out


def test_a_resumed_run_ends_like_an_uninterrupted_one(run: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "run")
    train(SHORT, tmp_path / "run", report_every=4, save_every=1)
    ends = [torch.load(p / "checkpoint.pt", weights_only=True) for p in (run, tmp_path / "run")]
    for name, tensor in ends[0]["model"].items():
        assert torch.equal(tensor, ends[1]["model"][name]), name


def _interrupted(out: Path) -> None:
    """The first of SHORT's two steps, then Ctrl-C."""
    real = pretrain.save_checkpoint

    def save_then_stop(path: Path, **state: object) -> None:
        real(path, **state)
        raise KeyboardInterrupt

    with patch.object(pretrain, "save_checkpoint", save_then_stop):
        train(SHORT, out, report_every=4, save_every=1)


def test_the_folder_loads_without_code_of_ours(run: Path) -> None:
    folder = run / "model"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model).__name__ == "Qwen3_5ForConditionalGeneration"
    assert model.dtype == torch.bfloat16
    text = model.config.text_config
    assert (text.linear_key_head_dim, text.linear_value_head_dim, text.head_dim) == (128, 128, 64)
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"
    assert AutoImageProcessor.from_pretrained(folder).patch_size == 16


def test_the_shipped_model_is_small() -> None:
    folder = Path(architecture.__file__).parents[2] / "engines" / "models" / "demo"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert 4e6 < sum(p.numel() for p in model.parameters()) < 8e6


def test_patches_are_the_processors(run: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(run / "model")
    expected = processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    found = patchify(torch.from_numpy(pixels)[None], 16, 2, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_rate_before_the_cooldown_does_not_depend_on_the_length() -> None:
    short, long = (Options(steps, 8, 1.0, 0, warmup=10, cooldown=20) for steps in (100, 200))
    assert [rate_at(s, short) for s in range(80)] == [rate_at(s, long) for s in range(80)]
    assert rate_at(0, short) == 0.1
    assert rate_at(99, short) == 0.05


def test_batches_depend_on_the_step_alone() -> None:
    tokenizer = make_tokenizer(0)
    for step in (1, 3):
        first, second = (batch_at(step, SHORT, tokenizer) for _ in range(2))
        assert torch.equal(first.input_ids, second.input_ids)
        assert (first.pixels is None) == (step != 3)
