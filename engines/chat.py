"""Prompts as token ids: a prefix that ends with the picture, and a tail that follows it.

A picture ends with a special token, so text before and after it is tokenised apart and prefix +
tail are the very ids of the whole chat. A prompt is what the user says in one turn, or a
`Conversation` of several, with a system message and tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.chat_template import ChatTemplate, Turns
from engines.conversation import Conversation
from engines.errors import ModelError, PromptError
from engines.families import picture_layout
from engines.layout import PictureLayout
from engines.model import eos_ids, load_config, load_tokenizer


@dataclass(frozen=True)
class Chat:
    """How one model's chats are written: thinking off, the picture first."""

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

    @cached_property
    def template(self) -> ChatTemplate:
        """The model's chat template."""
        return ChatTemplate(self.tokenizer)

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
        return self._ids(self._head)

    def prefix_positions(self) -> tuple[NDArray[np.int64], int]:
        """Positions (3, prefix) and the position of the first token after it."""
        return self.layout.prefix_positions(self.prefix_ids())

    def tail_ids(self, prompt: str) -> list[int]:
        """What follows the picture, up to where the answer begins.

        Raises:
            PromptError: the prompt has markers of a picture in it, or the template refuses it.
            ModelError: the template leaves something out, or puts it before the picture.
        """
        return self._ids(self._tail(self._checked(prompt)))

    def full_ids(self, prompt: str) -> list[int]:
        """The whole chat without a picture, up to where the answer begins.

        Raises:
            PromptError, ModelError: as `tail_ids`.
        """
        turns = self.template.turns(self._checked(prompt), picture=False)
        return self._ids(self.template.render(turns))

    def answer_ids(self, answer: str) -> list[int]:
        """An answer as the model would write it, with the token that ends it. A `Conversation` is
        one with tool calls."""
        text = answer
        if isinstance(answer, Conversation):
            text = self.template.answer(answer.messages[-1])
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

    @cached_property
    def _head(self) -> str:
        """The text of the prefix, the same for every chat."""
        before, _ = self._around_picture("x")
        layout = self.layout
        picture = layout.opening + self._placeholder * layout.tokens + layout.closing
        return before + picture + self._end

    def _tail(self, prompt: str) -> str:
        """The text after the prefix."""
        before, after = self._around_picture(prompt)
        if not self._head.startswith(before + self.layout.opening + self._placeholder):
            raise ModelError(
                got=f"a chat template that writes {before!r} before the picture of this chat",
                expected="the same for every chat",
                fix="use the chat template that came with the model",
            )
        return after.removeprefix(self._end)

    def _around_picture(self, prompt: str) -> tuple[str, str]:
        """What the template writes before and after the picture."""
        text = self.template.render(self.template.turns(prompt, picture=True))
        before, _, after = text.partition(self._placeholder)
        if not after.startswith(self._end):
            raise ModelError(
                got=f"a chat template that writes {after[:20]!r} after a picture",
                expected=f"{self._end!r}, as the template of this model's family does",
                fix="use the chat template that came with the model",
            )
        return before, after

    @cached_property
    def _placeholder(self) -> str:
        return str(self.tokenizer.decode([self.image_token_id]))

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
        asked: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "x"}]}
        answered = self.template.render(Turns([asked, {**asked, "role": "assistant"}]), ask=False)
        # A template may also show past answers otherwise than it asks for new ones.
        question = self.template.render(Turns([asked]))
        rest = answered.removeprefix(question) if answered.startswith(question) else "x"
        return rest.partition("x")[0]
