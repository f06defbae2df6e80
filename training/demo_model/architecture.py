"""The shipped model's configuration and first weights."""

from __future__ import annotations

import math

import torch
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3_5Tokenizer

HIDDEN = 256
LAYERS = ("linear_attention", "full_attention") * 3


def make_config(tokenizer: Qwen3_5Tokenizer) -> Qwen3_5Config:
    """A Qwen3.5 configuration of about 6M parameters.

    Linear-attention head dims are 128 and the attention's head_dim is 64, since vLLM's CPU
    kernels take no others.
    """
    token = tokenizer.convert_tokens_to_ids
    return Qwen3_5Config(
        text_config=_text_config(tokenizer),
        vision_config={
            "depth": 2,
            "hidden_size": 128,
            "num_heads": 2,
            "intermediate_size": 384,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 256,
            "initializer_range": 0.04,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def _text_config(tokenizer: Qwen3_5Tokenizer) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 768,
        "num_hidden_layers": len(LAYERS),
        "layer_types": list(LAYERS),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "max_position_embeddings": 4096,
        "initializer_range": 0.04,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def make_model(config: Qwen3_5Config, seed: int) -> Qwen3_5ForConditionalGeneration:
    """Fresh fp32 weights with Gated DeltaNet heads that remember.

    Hugging Face starts every head with dt near 1.3, a memory of about one token. As in
    flash-linear-attention's GatedDeltaNet, dt is drawn log-uniform from 1e-3 to 0.1 and stored
    through the inverse of softplus.
    """
    torch.manual_seed(seed)
    model = Qwen3_5ForConditionalGeneration(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("dt_bias"):
                low, high = math.log(1e-3), math.log(0.1)
                dt = torch.exp(torch.rand_like(parameter) * (high - low) + low)
                parameter.copy_(dt + torch.log(-torch.expm1(-dt)))
        # Initial visual tokens are 13 times the rms of text embeddings; start at the same scale.
        model.model.visual.merger.linear_fc2.weight.mul_(1 / 13)
    return model
