"""Gradients with regard to the pixels, through the parts and through Hugging Face's own forward.

Training sees the picture once, at batch 1, and expands the state after it; Hugging Face's model
sees whole sequences, a copy of the picture in each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from engines.chat import Chat
from engines.families import FAMILIES, load_parts
from engines.model import ModelSource
from engines.reference import Reference
from tests.models import TINY, tiny_model
from training.batches import Batch, Row, collate
from training.objectives.sft import loss
from training.policy import Policy, picture_policy

PROMPTS = ("Wake me up at 07:30 on Monday.", "12 + 30", "How many apples does Anna have now? " * 5)
TOLERANCE = 2e-5
"""Largest difference, as a part of the largest gradient."""


@dataclass(frozen=True, eq=False)
class Case:
    """A family's tiny model, three examples, and a noise picture (size, size, 3)."""

    reference: Reference
    chat: Chat
    batch: Batch
    pixels: torch.Tensor


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family = request.param
    folder = tiny_model(family, tmp_path_factory.mktemp(family) / "model")
    size = TINY[family].size
    chat = Chat.load(folder, size)
    tails = [chat.tail_ids(prompt) for prompt in PROMPTS]
    batch = collate([Row((*ids, *chat.answer_ids("42 apples")), len(ids)) for ids in tails])
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    return Case(Reference(ModelSource(family, folder)), chat, batch, torch.tensor(noise).float())


def _pixel_values(reference: Reference, size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model's own processor as a differentiable function of a picture that it leaves alone.

    Every value is a pixel times a factor plus a constant. Which pixel, and both numbers, are read
    off what the processor makes of four pictures: black, white, and the two digits to the base of
    256 of every pixel's number.
    """
    numbers = np.arange(size * size * 3).reshape(size, size, 3)

    def seen(picture: np.ndarray) -> torch.Tensor:
        return reference.processed(picture.astype(np.uint8))["pixel_values"].double()

    black = seen(numbers * 0)
    factor = (seen(numbers * 0 + 255) - black) / 255
    low, high = ((seen(part) - black) / factor for part in (numbers % 256, numbers // 256))
    index = low.round().long() + 256 * high.round().long()
    return lambda pixels: (black + factor * pixels.flatten()[index]).float()


def _reference_policy(case: Case, pixels: torch.Tensor) -> Policy:
    """Hugging Face's forward over prefix and tail, whole and without a cache."""
    reference, size = case.reference, len(pixels)
    values = reference.processed(pixels.detach().numpy().astype(np.uint8))
    values["pixel_values"] = _pixel_values(reference, size)(pixels)

    def policy(input_ids: torch.Tensor, keep: int) -> torch.Tensor:
        batch = len(input_ids)
        prefix = torch.tensor([case.chat.prefix_ids()]).expand(batch, -1)
        ids = torch.cat([prefix, input_ids], dim=1)
        inputs = {name: torch.cat([value] * batch) for name, value in values.items()}
        if "image_grid_thw" in inputs:
            inputs["mm_token_type_ids"] = (ids == case.chat.image_token_id).int()
        logits: torch.Tensor = reference.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **inputs
        ).logits
        return logits[:, -keep:]

    return policy


def _gradient(
    case: Case, policy_of: Callable[[torch.Tensor], Policy]
) -> tuple[float, torch.Tensor]:
    pixels = case.pixels.clone().requires_grad_()
    value = loss(policy_of(pixels), case.batch)
    value.backward()
    assert pixels.grad is not None
    return float(value.detach()), pixels.grad


def test_the_differentiable_processor_is_the_processor(case: Case) -> None:
    expected = case.reference.processed(case.pixels.numpy().astype(np.uint8))["pixel_values"]
    found = _pixel_values(case.reference, len(case.pixels))(case.pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_loss_and_gradient_are_those_of_hugging_faces_forward(case: Case) -> None:
    parts = load_parts(case.reference.model, len(case.pixels))
    ours, found = _gradient(case, lambda pixels: picture_policy(parts, case.chat, pixels))
    theirs, expected = _gradient(case, lambda pixels: _reference_policy(case, pixels))
    assert ours == pytest.approx(theirs, rel=1e-5)
    scale = float(expected.abs().max())
    assert scale > 0 and bool(expected.isfinite().all())
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=TOLERANCE)
    assert (found != 0).float().mean() > 0.99
