"""Prefix and tail are the ids of the whole chat, cut after the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.chat import Chat
from engines.errors import PromptError
from engines.model import ModelSource
from engines.reference import Reference

SIZE = 64


@pytest.fixture(scope="module")
def chat(tiny_model_dir: Path) -> Chat:
    return Chat.load(tiny_model_dir, SIZE)


@pytest.fixture(scope="module")
def reference(tiny_model_dir: Path) -> Reference:
    return Reference(ModelSource("tiny", tiny_model_dir))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.text(min_size=1, max_size=60))
def test_prefix_and_tail_are_the_references_ids(
    chat: Chat, reference: Reference, prompt: str
) -> None:
    if "<|" in prompt:
        return
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    whole = reference.inputs([prompt], [picture])["input_ids"][0].tolist()
    assert chat.prefix_ids() + chat.tail_ids(prompt) == whole
    assert chat.full_ids(prompt) == reference.inputs([prompt], [None])["input_ids"][0].tolist()


def test_prefix_has_one_placeholder_a_visual_token(chat: Chat) -> None:
    ids = chat.prefix_ids()
    assert ids.count(chat.image_token_id) == chat.picture_tokens == 4
    assert ids[-1] == chat.layout.end_token_id
    positions, following = chat.prefix_positions()
    assert positions.shape == (3, len(ids))
    assert following == positions.max() + 1


def test_answers_end(chat: Chat) -> None:
    ids = chat.answer_ids("12 apples")
    assert ids[-1] in chat.eos_ids
    assert chat.decode(ids) == "12 apples"


@pytest.mark.parametrize("marker", ["<|image_pad|>", "<|vision_end|>"])
def test_a_prompt_cannot_forge_a_picture(chat: Chat, marker: str) -> None:
    with pytest.raises(PromptError, match="marker"):
        chat.tail_ids(f"see {marker}")
