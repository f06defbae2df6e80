"""The shared prefix against Hugging Face's own forward on whole, unshared sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.chat import Chat
from engines.families import load_parts
from engines.model import load_model, resolve_model
from training.batches import Row, collate
from training.objectives.sft import loss
from training.picture import grey_start
from training.policy import picture_policy, text_policy

SIZE = 64
PROMPTS = ("Wake me up at 07:30 on Monday.", "12 + 30", "How many apples does Anna have now?")


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return load_model(resolve_model(str(tiny_model_dir)))


@pytest.fixture(scope="module")
def chat(tiny_model_dir: Path) -> Chat:
    return Chat.load(tiny_model_dir, SIZE)


def rows_of(chat: Chat) -> list[Row]:
    tails = [chat.tail_ids(prompt) for prompt in PROMPTS]
    return [Row((*ids, *chat.answer_ids("42")), len(ids)) for ids in tails]


def reference_logits(model: Any, folder: Path, chat: Chat, row: Row, pixels: Any) -> torch.Tensor:
    """Hugging Face's forward on one whole sequence, with its own image processor."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    seen = processor(images=Image.fromarray(pixels), return_tensors="pt")
    ids = torch.tensor([[*chat.prefix_ids(), *row.ids]])
    types = (ids == chat.image_token_id).int()
    with torch.no_grad():
        out = model(
            input_ids=ids,
            pixel_values=seen["pixel_values"],
            image_grid_thw=seen["image_grid_thw"],
            mm_token_type_ids=types,
        )
    logits: torch.Tensor = out.logits
    return logits


def test_logits_after_the_picture_are_those_of_hugging_face(
    model: Any, chat: Chat, tiny_model_dir: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    rows = rows_of(chat)
    batch = collate(rows)
    with torch.no_grad():
        policy = picture_policy(load_parts(model, SIZE), chat, torch.tensor(pixels).float())
        found = policy(batch.input_ids, batch.input_ids.shape[1])
    for index, row in enumerate(rows):
        expected = reference_logits(model, tiny_model_dir, chat, row, pixels)
        length = len(row.ids) - 1
        tail = expected[0, -length - 1 : -1]
        assert torch.allclose(found[index, :length], tail, atol=1e-4)


def test_logits_without_a_picture_are_those_of_hugging_face(model: Any, chat: Chat) -> None:
    ids = torch.tensor([chat.full_ids(PROMPTS[0])])
    with torch.no_grad():
        found = text_policy(load_parts(model, SIZE))(ids, 5)
        expected = model(input_ids=ids).logits[:, -5:]
    assert torch.allclose(found, expected, atol=1e-4)


def test_sharing_the_prefix_does_not_change_the_gradient(model: Any, chat: Chat) -> None:
    parts, rows = load_parts(model, SIZE), rows_of(chat)
    start = torch.tensor(grey_start(SIZE, 0)).float()
    shared = start.clone().requires_grad_()
    loss(picture_policy(parts, chat, shared), collate(rows)).backward()

    alone = start.clone().requires_grad_()
    tokens = sum(len(row.ids) - row.start for row in rows)
    for row in rows:
        share = (len(row.ids) - row.start) / tokens
        (share * loss(picture_policy(parts, chat, alone), collate([row]))).backward()

    assert shared.grad is not None
    assert alone.grad is not None
    assert shared.grad.norm() > 0
    assert torch.allclose(shared.grad, alone.grad, rtol=1e-3, atol=1e-6 * alone.grad.norm().item())


def test_weights_get_no_gradient(model: Any, chat: Chat) -> None:
    pixels = torch.tensor(grey_start(SIZE, 0)).float().requires_grad_()
    loss(picture_policy(load_parts(model, SIZE), chat, pixels), collate(rows_of(chat))).backward()
    assert pixels.grad is not None
    assert all(weight.grad is None for weight in model.parameters())
