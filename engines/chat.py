"""Prompts as token ids: a prefix that ends with the picture, and a tail that follows it.

A picture ends with a special token, so text before and after it is tokenised apart and prefix +
tail are the very ids of the whole chat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import ModelError, PromptError
from engines.families import picture_layout
from engines.layout import PictureLayout
from engines.model import eos_ids, load_config, load_tokenizer


@dataclass(frozen=True)
class Chat:
    """How one model's chats are written: one user turn, thinking off, the picture first."""

    tokenizer: Any
    layout: PictureLayout
    eos_ids: tuple[int, ...]
    """Tokens that end an answer; the first is the one to write."""
    max_length: int
    """Tokens that the model was made for, prompt and answer together."""

    @classmethod
    def load(cls, folder: Path, picture_size: int | None = None) -> Chat:
        """From a model's or a bundle's folder (its configurations and the tokenizer's files).

        Raises:
            ModelError: the family is not supported, or would resize pictures of `picture_size`.
        """
        config, tokenizer = load_config(folder), load_tokenizer(folder)
        return cls(
            tokenizer=tokenizer,
            layout=picture_layout(config, picture_size),
            eos_ids=eos_ids(folder, tokenizer),
            max_length=config.get_text_config().max_position_embeddings,
        )

    @property
    def image_token_id(self) -> int:
        """The placeholder of one visual token."""
        return self.layout.image_token_id

    @property
    def picture_tokens(self) -> int:
        """Visual tokens of a picture."""
        return self.layout.tokens

    def prefix_ids(self) -> list[int]:
        """Everything up to and with the end of the picture, one placeholder a visual token."""
        return self._ids(self._split("x")[0])

    def prefix_positions(self) -> tuple[NDArray[np.int64], int]:
        """Positions (3, prefix) and the position of the first token after it."""
        return self.layout.prefix_positions(self.prefix_ids())

    def tail_ids(self, prompt: str) -> list[int]:
        """The user's text after the picture, up to where the answer begins."""
        return self._ids(self._split(self._checked(prompt))[1])

    def full_ids(self, prompt: str) -> list[int]:
        """The whole chat without a picture, up to where the answer begins."""
        return self._ids(self._render([{"type": "text", "text": self._checked(prompt)}]))

    def answer_ids(self, text: str) -> list[int]:
        """An answer as the model would write it, with the token that ends it."""
        return [*self._ids(self._lead + text), self.eos_ids[0]]

    def decode(self, ids: list[int]) -> str:
        """Token ids as text, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _checked(self, prompt: str) -> str:
        """`prompt` if it can follow a picture; a special token in it would forge a turn."""
        found = sorted(marker for marker in self._markers if marker in prompt)
        if found:
            raise PromptError(
                got=f"a prompt that contains {', '.join(found)}",
                expected="text without the markers that stand for a picture",
                fix="remove the marker: the picture is put before the prompt by itself",
            )
        return prompt

    def _split(self, prompt: str) -> tuple[str, str]:
        text = self._render([{"type": "image"}, {"type": "text", "text": prompt}])
        placeholder = self.tokenizer.decode([self.image_token_id])
        head, _, tail = text.partition(placeholder)
        layout, end = self.layout, self._end
        if not tail.startswith(end):
            raise ModelError(
                got=f"a chat template that writes {tail[:20]!r} after a picture",
                expected=f"{end!r}, as the template of this model's family does",
                fix="use the chat template that came with the model",
            )
        picture = layout.opening + placeholder * layout.tokens + layout.closing
        return head + picture + end, tail[len(end) :]

    @cached_property
    def _end(self) -> str:
        """What the chat template writes right after a picture."""
        end = self.layout.end_token_id
        return "" if end is None else str(self.tokenizer.decode([end]))

    @cached_property
    def _markers(self) -> set[str]:
        """Special tokens of which a picture is made up in a chat."""
        layout = self.layout
        ids = {layout.image_token_id, *self._ids(layout.opening), *self._ids(layout.closing)}
        if layout.end_token_id is not None:
            ids.add(layout.end_token_id)
        return {self.tokenizer.decode([i]) for i in ids}

    @cached_property
    def _lead(self) -> str:
        """What the template writes between the prompt to answer and an answer, such as a space."""
        content = [{"type": "text", "text": "x"}]
        answered = self._render(content, {"role": "assistant", "content": content})
        # A template may also show past answers otherwise than it asks for new ones.
        asked = self._render(content)
        rest = answered.removeprefix(asked) if answered.startswith(asked) else "x"
        return rest.partition("x")[0]

    def _render(self, content: list[dict[str, str]], *more: dict[str, Any]) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}, *more],
                add_generation_prompt=not more,
                tokenize=False,
                enable_thinking=False,
            )
        )
