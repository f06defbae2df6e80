"""The shipped model's tokenizer: Qwen's byte-level BPE scheme over a small vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, pre_tokenizers, trainers
from transformers import Qwen3_5Tokenizer

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
THINK = ("<think>", "</think>")
WORDS_AND_MARKS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for item in message.content -%}"
    "{%- if item.type == 'image' or 'image' in item or 'image_url' in item -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif 'text' in item -%}{{- item.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- if enable_thinking is defined and enable_thinking -%}{{- '<think>\\n' -}}"
    "{%- else -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{%- endif -%}"
)
"""Like Qwen3.5's: parts in the order given, thinking off unless `enable_thinking` is true."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> Qwen3_5Tokenizer:
    """A tokenizer with Qwen3.5's pre-tokenisation (digits one by one) trained on `texts`.

    While merges are learnt, marks are split from words: `"Rome` would else become other tokens
    than ` Rome`, and so small a model has to copy words from requests into JSON.
    """
    learner = Qwen3_5Tokenizer().backend_tokenizer
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS_AND_MARKS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *THINK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    state = json.loads(learner.to_str())["model"]
    tokenizer = Qwen3_5Tokenizer(
        vocab=state["vocab"],
        merges=[tuple(pair) for pair in state["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL[1:]),
    )
    tokenizer.add_tokens(list(THINK), special_tokens=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
