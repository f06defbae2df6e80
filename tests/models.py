"""Tiny models with random weights, one maker a family: whole Hugging Face folders for tests.

Every parameter is random, norms and biases too, so that one which is forgotten shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

TEXTS = (
    "Wake me up at 07:30 on Monday.",
    '{"name": "set_alarm", "arguments": {"time": "07:30", "day": "Monday"}}',
    "Anna has 12 apples and buys 30 more. How many apples does Anna have now?",
    "12 + 30 = 42\nAnswer: 42",
    "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)
CLIP_MEAN, CLIP_STD = (
    [0.48145466, 0.4578275, 0.40821073],
    [0.26862954, 0.26130258, 0.27577711],
)
HALF = [0.5, 0.5, 0.5]


@dataclass(frozen=True)
class TinyFamily:
    """How a family's tiny model is made.

    size: pixels a side of pictures that suit it. config: (tokenizer, positions) -> configuration.
    processor: () -> image processor. tokenizer: () -> tokenizer with a chat template. weights:
    configuration -> model.
    """

    size: int
    config: Callable[[Any, int], Any]
    processor: Callable[[], Any]
    tokenizer: Callable[[], Any]
    weights: Callable[[Any], Any]


def tiny_model(family: str, folder: Path, max_length: int = 1024) -> Path:
    """Write a model of `family` with room for `max_length` tokens into `folder`."""
    tiny = TINY[family]
    tokenizer = tiny.tokenizer()
    model = tiny.weights(tiny.config(tokenizer, max_length))
    return save_model(shaken(model), tokenizer, tiny.processor(), folder)


def save_model(model: Any, tokenizer: Any, processor: Any, folder: Path) -> Path:
    """Write a whole Hugging Face folder."""
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder


def shaken(model: Any) -> Any:
    """`model` with noise on norms and biases, which start as ones and zeros."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def qwen_tokenizer() -> Any:
    """A byte-level tokenizer of 400 tokens with Qwen's markers and chat template."""
    from training.demo_model.tokenizer import train_tokenizer

    return train_tokenizer(TEXTS, vocab_size=400)


def random_weights(config: Any, dtype: str = "float32") -> Any:
    """Fresh weights for a configuration of any family."""
    import torch
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))


def _qwen3_5_weights(config: Any) -> Any:
    from training.demo_model.architecture import make_model

    return make_model(config, seed=0)


def _qwen_processor(patch: int, mean: list[float], std: list[float]) -> Callable[[], Any]:
    def make() -> Any:
        from transformers import Qwen2VLImageProcessorPil

        return Qwen2VLImageProcessorPil(
            size={"shortest_edge": 4 * patch * patch, "longest_edge": 16777216},
            patch_size=patch,
            image_mean=mean,
            image_std=std,
        )

    return make


def _smolvlm(name: str) -> Callable[..., Any]:
    """A function of tests/tiny_smolvlm.py, which is imported when it is called."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module("tests.tiny_smolvlm"), f"smolvlm_{name}")(*arguments)

    return call


def _markers(tokenizer: Any) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def _text(tokenizer: Any, positions: int, sections: list[int]) -> dict[str, Any]:
    """What the language models have in common; queries share keys in pairs."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": positions,
        "initializer_range": 0.1,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": sections,
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


VISION = {"depth": 1, "hidden_size": 32, "num_heads": 2, "initializer_range": 0.1}


def _qwen3_5(tokenizer: Any, positions: int) -> Any:
    """One linear and one full attention layer, about 0.2M parameters."""
    from transformers import Qwen3_5Config

    text = _text(tokenizer, positions, [4, 2, 2])
    text["rope_parameters"] |= {"partial_rotary_factor": 0.5, "mrope_interleaved": True}
    return Qwen3_5Config(
        text_config={
            **text,
            "layer_types": ["linear_attention", "full_attention"],
            "head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "tie_word_embeddings": True,
        },
        vision_config={
            **VISION,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
        },
        tie_word_embeddings=True,
        **_markers(tokenizer),
    )


def _qwen3_vl(tokenizer: Any, positions: int) -> Any:
    """Two DeepStack depths, the deeper one listed first."""
    from transformers import Qwen3VLConfig

    text = _text(tokenizer, positions, [6, 5, 5])
    text["rope_parameters"] |= {"mrope_interleaved": True}
    return Qwen3VLConfig(
        text_config={**text, "head_dim": 32},
        vision_config={
            **VISION,
            "depth": 2,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [1, 0],
        },
        tie_word_embeddings=True,
        **_markers(tokenizer),
    )


def _qwen2_5_vl(tokenizer: Any, positions: int) -> Any:
    """Windows of 2x2 visual tokens in the first of two blocks; embeddings and head not tied."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config=_text(tokenizer, positions, [2, 3, 3]),
        vision_config={
            **VISION,
            "depth": 2,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=False,
        **_markers(tokenizer),
    )


def _qwen2_vl(tokenizer: Any, positions: int) -> Any:
    """The vision tower's `hidden_size` is that of its output."""
    from transformers import Qwen2VLConfig

    return Qwen2VLConfig(
        text_config=_text(tokenizer, positions, [2, 3, 3]),
        vision_config={**VISION, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
        tie_word_embeddings=True,
        **_markers(tokenizer),
    )


TINY: dict[str, TinyFamily] = {
    "qwen3_5": TinyFamily(
        64, _qwen3_5, _qwen_processor(16, HALF, HALF), qwen_tokenizer, _qwen3_5_weights
    ),
    "qwen3_vl": TinyFamily(
        64, _qwen3_vl, _qwen_processor(16, HALF, HALF), qwen_tokenizer, random_weights
    ),
    "qwen2_5_vl": TinyFamily(
        84, _qwen2_5_vl, _qwen_processor(14, CLIP_MEAN, CLIP_STD), qwen_tokenizer, random_weights
    ),
    "qwen2_vl": TinyFamily(
        84, _qwen2_vl, _qwen_processor(14, CLIP_MEAN, CLIP_STD), qwen_tokenizer, random_weights
    ),
    "smolvlm": TinyFamily(
        64, _smolvlm("config"), _smolvlm("processor"), _smolvlm("tokenizer"), random_weights
    ),
}
"""By model_type."""
