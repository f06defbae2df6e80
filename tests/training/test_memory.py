"""Cheaper steps on the tiny model: how far their gradients are from the whole ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from engines.chat import Chat
from engines.families import FAMILIES, load_parts, picture_layout
from engines.model import load_model, resolve_model
from tests.models import tiny_model
from training.batches import Row, collate
from training.memory import lighten
from training.objectives.sft import loss
from training.placement import is_placed
from training.policy import picture_policy

SIZE = 64


@pytest.fixture
def model(tiny_model_dir: Path) -> Any:
    return load_model(resolve_model(str(tiny_model_dir)))


def gradient(
    model: Any, folder: Path, size: int = SIZE, **options: bool
) -> tuple[torch.Tensor, int]:
    """Of the picture, and the bytes that were kept for the backward pass after the prefix."""
    chat = Chat.load(folder, size)
    parts = lighten(load_parts(model, size), **options)
    # Far from grey, where some models drop a picture.
    start = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    pixels = torch.tensor(start).float().requires_grad_()
    policy = picture_policy(parts, chat, pixels)
    ids = chat.tail_ids("Wake me up at 07:30 on Monday.")
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(policy, collate([Row((*ids, *chat.answer_ids("Answer: 42")), len(ids))] * 4))
    value.backward()
    assert pixels.grad is not None
    return pixels.grad, sum(kept)


def test_recomputed_activations_give_the_same_gradient_from_less(
    model: Any, tiny_model_dir: Path
) -> None:
    whole, kept = gradient(model, tiny_model_dir)
    again, fewer = gradient(model, tiny_model_dir, recompute=True)
    assert torch.allclose(whole, again, atol=1e-6 * float(whole.norm()))
    assert fewer < 0.5 * kept


def test_bf16_gradients_point_the_same_way(model: Any, tiny_model_dir: Path) -> None:
    whole, _ = gradient(model, tiny_model_dir)
    for recompute in (False, True):
        half, _ = gradient(model, tiny_model_dir, bf16=True, recompute=recompute)
        assert half.dtype == torch.float32
        assert not torch.equal(whole, half)
        cosine = torch.nn.functional.cosine_similarity(whole.flatten(), half.flatten(), dim=0)
        assert cosine > 0.95


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_layers_to_recompute_in_bf16(family: str, tmp_path: Path) -> None:
    folder = tiny_model(family, tmp_path / family)
    model = load_model(resolve_model(str(folder)))
    size = 2 * picture_layout(model.config).unit
    whole, kept = gradient(model, folder, size)
    light, fewer = gradient(model, folder, size, bf16=True, recompute=True)
    assert torch.nn.functional.cosine_similarity(whole.flatten(), light.flatten(), dim=0) > 0.98
    assert fewer < 0.5 * kept


def test_in_bf16_it_is_still_seen_where_layers_are_loaded_for_each_use(model: Any) -> None:
    parts = load_parts(model, SIZE)
    light = lighten(parts, bf16=True)
    assert not is_placed(light)
    parts.decoder.layers[0]._hf_hook = object()  # type: ignore[index,union-attr]
    assert is_placed(light)
