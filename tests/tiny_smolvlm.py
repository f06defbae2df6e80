"""A random SmolVLM of tiny size, as a whole Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
)

SIZE = 64
"""Pixels a side of the tower's own pictures: 16 visual tokens of 16 x 16 pixels."""
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<global-img>",
    "<image>",
    "<end_of_utterance>",
)
TEXTS = (
    "Wake me up at 07:30 on Monday.",
    "Anna has 12 apples and buys 30 more. How many apples does Anna have now?",
    "User: how many apples are in the green box?\nAssistant: 12 + 30 = 42",
)
CHAT_TEMPLATE = (
    "<|im_start|>"
    "{%- for message in messages -%}"
    "{{- message.role | capitalize -}}"
    "{{- ':' if message.content[0].type == 'image' else ': ' -}}"
    "{%- for part in message.content -%}"
    "{{- '<image>' if part.type == 'image' else part.text -}}"
    "{%- endfor -%}"
    "{{- '<end_of_utterance>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
)
"""Writes what SmolVLM2's own template writes."""
VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": SIZE,
    "patch_size": 8,
    "initializer_range": 0.2,
}
EMPTY: Mapping[str, Any] = MappingProxyType({})


def make(
    folder: Path,
    max_length: int = 2048,
    text: Mapping[str, Any] = EMPTY,
    vision: Mapping[str, Any] = EMPTY,
    **config: Any,
) -> Path:
    """Write a model with room for `max_length` tokens, its tokenizer and processor to `folder`.

    Args:
        text, vision, config: replace values of the two towers' configurations and of the whole.
    """
    tokenizer = smolvlm_tokenizer()
    found = smolvlm_config(tokenizer, max_length, text, vision, **config)
    torch.manual_seed(0)
    model = _shaken(SmolVLMForConditionalGeneration(found).float())
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    smolvlm_processor().save_pretrained(folder)
    return folder


def _shaken(model: SmolVLMForConditionalGeneration) -> SmolVLMForConditionalGeneration:
    """`model` with noise on norms and biases, which start as ones and zeros: one that is
    forgotten shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def smolvlm_processor() -> SmolVLMImageProcessorPil:
    """Enlarges pictures fourfold and cuts them into tiles, as the published ones do."""
    return SmolVLMImageProcessorPil(
        size={"longest_edge": 4 * SIZE}, max_image_size={"longest_edge": SIZE}
    )


def smolvlm_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE; digits one by one, as in SmolLM2's."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=learner,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def smolvlm_config(
    tokenizer: PreTrainedTokenizerFast,
    positions: int,
    text: Mapping[str, Any] = EMPTY,
    vision: Mapping[str, Any] = EMPTY,
    **config: Any,
) -> SmolVLMConfig:
    """Two vision and three text layers; queries share keys in pairs; head not tied."""
    return SmolVLMConfig(
        **{
            "text_config": {**_text(tokenizer, positions), **text},
            "vision_config": {**VISION, **vision},
            "scale_factor": 2,
            "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": False,
            **config,
        }
    )


def _text(tokenizer: PreTrainedTokenizerFast, positions: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        # Some rows that stand for no token, as published models have.
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "max_position_embeddings": positions,
        "initializer_range": 0.15,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
