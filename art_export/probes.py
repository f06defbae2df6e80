"""Prompts of exact length for parity checks, the same for every run."""

from __future__ import annotations

import random

from engines.chat import Chat

LENGTHS = (5, 12, 31, 63, 64, 65, 128, 200, 500, 1000)
"""Tokens of the user's text. 63 to 65 surround the chunk of the gated delta rule."""
WORDS = (
    "apples", "have", "Anna", "seven", "12", "how", "many", "sold", "the", "box", "green", "and",
    "on", "Monday", "left", "time", "call", "weather", "in", "Paris", "more", "than", "3", "?",
)  # fmt: skip


def prompt_of_length(chat: Chat, length: int, rng: random.Random) -> str:
    """Text of exactly `length` tokens within a chat: words, and single digits for the rest.

    Qwen's tokenizers make every digit a token of its own; under one that joins digits the text
    may be a token short.
    """
    frame = len(chat.tail_ids("7")) - 1
    text = rng.choice("23456789")
    longer = text
    while len(chat.tail_ids(longer)) - frame <= length:
        text, longer = longer, f"{longer} {rng.choice(WORDS)}"
    while len(chat.tail_ids(text + "7")) - frame <= length:
        text += rng.choice("23456789")
    return text


def probe_prompts(chat: Chat, count: int, room: int, seed: int = 0) -> list[str]:
    """`count` prompts whose lengths go through LENGTHS, as far as `room` tokens allow."""
    rng = random.Random(seed)
    lengths = [length for length in LENGTHS if length <= room]
    return [prompt_of_length(chat, lengths[i % len(lengths)], rng) for i in range(count)]
