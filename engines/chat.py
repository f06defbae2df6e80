"""Prompts as token ids: a prefix that ends with the picture, and a tail that follows it.

The end of the picture is a special token, so text before and after it is tokenised apart and
prefix + tail are the very ids of the whole chat.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import PromptError
from engines.model import load_tokenizer
from engines.positions import prefix_positions


@dataclass(frozen=True)
class Chat:
    """How one model's chats are written: one user turn, thinking off, the picture first."""

    tokenizer: Any
    image_token_id: int
    vision_end_id: int
    grid: int
    """Side of the square of visual tokens that a picture becomes."""
    max_length: int
    """Tokens that the model was made for, prompt and answer together."""

    @classmethod
    def load(cls, folder: Path, picture_size: int) -> Chat:
        """From a model's or a bundle's folder (config.json and the tokenizer's files)."""
        config = json.loads((folder / "config.json").read_text("utf-8"))
        vision = config["vision_config"]
        return cls(
            tokenizer=load_tokenizer(folder),
            image_token_id=config["image_token_id"],
            vision_end_id=config["vision_end_token_id"],
            grid=picture_size // (vision["patch_size"] * vision["spatial_merge_size"]),
            max_length=config["text_config"]["max_position_embeddings"],
        )

    @property
    def picture_tokens(self) -> int:
        return self.grid * self.grid

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return (int(self.tokenizer.eos_token_id),)

    def prefix_ids(self) -> list[int]:
        """Everything up to and with the end of the picture, one placeholder a visual token."""
        head, _ = self._split("x")
        placeholder = self.tokenizer.decode([self.image_token_id])
        return self._ids(head.replace(placeholder, placeholder * self.picture_tokens))

    def prefix_positions(self) -> tuple[NDArray[np.int64], int]:
        """mrope positions (3, prefix) and the position of the first token after it."""
        return prefix_positions(self.prefix_ids(), self.image_token_id, self.grid)

    def tail_ids(self, prompt: str) -> list[int]:
        """The user's text after the picture, up to where the answer begins."""
        return self._ids(self._split(self._checked(prompt))[1])

    def full_ids(self, prompt: str) -> list[int]:
        """The whole chat without a picture, up to where the answer begins."""
        return self._ids(self._render([{"type": "text", "text": self._checked(prompt)}]))

    def answer_ids(self, text: str) -> list[int]:
        """An answer as the model would write it, with the token that ends it."""
        return [*self._ids(text), self.eos_ids[0]]

    def decode(self, ids: list[int]) -> str:
        """Token ids as text, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _checked(self, prompt: str) -> str:
        """`prompt` if it can follow a picture; a special token in it would forge a turn."""
        special = {self.tokenizer.decode([i]) for i in (self.image_token_id, self.vision_end_id)}
        found = sorted(token for token in special if token in prompt)
        if found:
            raise PromptError(
                got=f"a prompt that contains {', '.join(found)}",
                expected="text without the markers that stand for a picture",
                fix="remove the marker: the picture is put before the prompt by itself",
            )
        return prompt

    def _split(self, prompt: str) -> tuple[str, str]:
        text = self._render([{"type": "image"}, {"type": "text", "text": prompt}])
        end = self.tokenizer.decode([self.vision_end_id])
        head, _, tail = text.partition(end)
        return head + end, tail

    def _render(self, content: list[dict[str, str]]) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=False,
                enable_thinking=False,
            )
        )
