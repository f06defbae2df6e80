"""The true configurations of models that people use, to make random weights of their shape.

Every value that differs from the class's default in transformers is written down here. Their
parameters are counted in test_real_configs.py: each has as many as the published weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MARKERS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
"""Of Qwen2-VL's vocabulary, which Qwen2.5-VL and Qwen3-VL share."""


def real_config(name: str) -> Any:
    """The configuration of a model in REAL_CONFIGS, as transformers' class of its family.

    Raises:
        KeyError: the model is not listed.
    """
    return REAL_CONFIGS[name]()


def _qwen3_5_0_8b() -> Any:
    """Qwen/Qwen3.5-0.8B. Text: THUDM/slime's scripts/models/qwen3.5-0.8B.sh (widths, layers, heads,
    rotary base), transformers' defaults (Gated DeltaNet's dims), ohdearquant/lattice pull 669
    (mrope sections). Tower: huggingface/pytorch-image-models pull 2765 (`qwen3_vit_88m`)."""
    from transformers import Qwen3_5Config

    return Qwen3_5Config(
        text_config={
            "vocab_size": 248320,
            "hidden_size": 1024,
            "intermediate_size": 3584,
            "num_hidden_layers": 24,
            "layer_types": [*["linear_attention"] * 3, "full_attention"] * 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 16,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
            "max_position_embeddings": 262144,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000_000.0,
                "partial_rotary_factor": 0.25,
                "mrope_section": [11, 11, 10],
                "mrope_interleaved": True,
            },
            "eos_token_id": 248044,
        },
        vision_config={
            "depth": 12,
            "hidden_size": 768,
            "num_heads": 12,
            "intermediate_size": 3072,
            "out_hidden_size": 1024,
        },
        image_token_id=248056,
        video_token_id=248057,
        vision_start_token_id=248053,
        vision_end_token_id=248054,
        tie_word_embeddings=True,
    )


def _qwen3_vl_2b() -> Any:
    """Qwen/Qwen3-VL-2B-Instruct; its config.json is quoted whole in xorbitsai/inference issue
    4592, of the embedding model of the same shape."""
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
            "bos_token_id": 151643,
            "eos_token_id": 151645,
        },
        vision_config={
            "depth": 24,
            "hidden_size": 1024,
            "num_heads": 16,
            "intermediate_size": 4096,
            "out_hidden_size": 2048,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        tie_word_embeddings=True,
        **MARKERS,
    )


def _qwen2_5_vl_3b() -> Any:
    """Qwen/Qwen2.5-VL-3B-Instruct, config.json; the text's shape is that of Qwen2.5-3B."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "use_sliding_window": False,
            "max_window_layers": 70,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [16, 24, 24],
            },
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": 3420,
            "out_hidden_size": 2048,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
        tie_word_embeddings=True,
        **MARKERS,
    )


REAL_CONFIGS: dict[str, Callable[[], Any]] = {
    "Qwen3.5-0.8B": _qwen3_5_0_8b,
    "Qwen3-VL-2B": _qwen3_vl_2b,
    "Qwen2.5-VL-3B": _qwen2_5_vl_3b,
}
