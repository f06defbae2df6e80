"""What tests of all three packages share: a random model of the shipped model's architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TEXTS = (
    "Wake me up at 07:30 on Monday.",
    '{"name": "set_alarm", "arguments": {"time": "07:30", "day": "Monday"}}',
    "Anna has 12 apples and buys 30 more. How many apples does Anna have now?",
    "12 + 30 = 42\nAnswer: 42",
    "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)

TINY_SIZE = 64
"""Pixels a side of the tiny bundle's pictures: four visual tokens."""


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: Qwen3.5 with one linear and one full attention layer, random weights,
    about 0.2M parameters; pictures from 32x32 (one visual token) up, 64x64 is handy."""
    from transformers import GenerationConfig, Qwen2VLImageProcessorPil

    from training.demo_model.architecture import make_model
    from training.demo_model.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = train_tokenizer(TEXTS, vocab_size=400)
    model = make_model(_tiny_config(tokenizer), seed=0)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        size={"shortest_edge": 32 * 32, "longest_edge": 16777216},
        patch_size=16,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model_dir` built for pictures of 64x64. Shared: copy it before changing anything."""
    from art_export.build import BuildOptions, build

    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    build(BuildOptions(str(tiny_model_dir), folder, size=TINY_SIZE))
    return folder


def _tiny_config(tokenizer: Any) -> Any:
    from transformers import Qwen3_5Config

    token = tokenizer.convert_tokens_to_ids
    return Qwen3_5Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "max_position_embeddings": 1024,
            "initializer_range": 0.1,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "initializer_range": 0.1,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
