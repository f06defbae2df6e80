"""The parts against Hugging Face's own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.errors import ModelError
from engines.families import load_parts
from engines.families.parts import Parts, linear_positions
from engines.model import ModelSource
from engines.reference import Reference

SIZE = 64


@pytest.fixture(scope="module")
def reference(tiny_model_dir: Path) -> Reference:
    return Reference(ModelSource("tiny", tiny_model_dir))


@pytest.fixture(scope="module")
def parts(reference: Reference) -> Parts:
    return load_parts(reference.model, SIZE)


def _pixels(seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def test_patches_are_the_processors(reference: Reference, parts: Parts) -> None:
    expected = reference.processed(_pixels())["pixel_values"]
    found = parts.vision.patches(torch.from_numpy(_pixels())[None])[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_visual_tokens(reference: Reference, parts: Parts) -> None:
    batch = torch.from_numpy(np.stack([_pixels(0), _pixels(1)]))
    with torch.no_grad():
        found = parts.vision(batch).numpy()
    for row in range(2):
        np.testing.assert_allclose(found[row], reference.vision(_pixels(row)), atol=1e-5)


@pytest.mark.parametrize("words", [1, 20, 63, 64, 65, 200])
def test_logits_in_two_pieces(reference: Reference, parts: Parts, words: int) -> None:
    """Prefix and tail apart give what one forward over the whole chat gives."""
    prompt = "x " * words
    inputs = reference.inputs([prompt], [_pixels()])
    ids = inputs["input_ids"]
    end = int((ids[0] == parts.image_token_id).nonzero().max()) + 2
    with torch.no_grad():
        embeddings = parts.embed(ids[:, :end])
        marks = (ids[:, :end] == parts.image_token_id)[..., None]
        embeddings = embeddings.masked_scatter(
            marks, parts.vision(torch.from_numpy(_pixels())[None])
        )
        positions, following = parts.prefix_positions(ids[:, :end])
        first, state = parts.decoder(embeddings, None, positions, parts.empty_state(1), 0)
        rest = ids.shape[1] - end
        second, _ = parts.decoder(
            parts.embed(ids[:, end:]),
            torch.ones_like(ids),
            linear_positions(torch.tensor([following]), rest),
            state,
            0,
        )
    expected = reference.prefill_logits(prompt, _pixels())
    np.testing.assert_allclose(torch.cat([first, second], 1)[0].numpy(), expected, atol=1e-4)


def test_padding_at_the_left_changes_nothing(parts: Parts) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    padded = torch.tensor([[0, 0, 5, 6, 7, 8]])
    mask = (torch.arange(6) >= 2).long()[None]
    positions = linear_positions(torch.tensor([0]), 4)
    with torch.no_grad():
        plain, _ = parts.decoder(parts.embed(ids), None, positions, parts.empty_state(1), 0)
        shifted = torch.cat([torch.zeros(3, 1, 2, dtype=torch.int64), positions], dim=-1)
        found, _ = parts.decoder(parts.embed(padded), mask, shifted, parts.empty_state(1), 0)
    torch.testing.assert_close(found[:, 2:], plain, rtol=0, atol=1e-5)


def test_gradients_reach_every_pixel_through_an_expanded_state(parts: Parts) -> None:
    pixels = torch.from_numpy(_pixels()).float().requires_grad_()
    prefix = torch.tensor([[3, *[parts.image_token_id] * parts.picture_tokens, 4]])
    visual = parts.vision(pixels[None])
    marks = (prefix == parts.image_token_id)[..., None]
    embeddings = parts.embed(prefix).masked_scatter(marks, visual)
    positions, following = parts.prefix_positions(prefix)
    _, state = parts.decoder(embeddings, None, positions, parts.empty_state(1), 1)
    expanded = tuple(tensor.expand(3, *tensor.shape[1:]) for tensor in state)
    tails = torch.tensor([[5, 6], [7, 8], [9, 10]])
    logits, _ = parts.decoder(
        parts.embed(tails), None, linear_positions(torch.tensor([following] * 3), 2), expanded, 0
    )
    logits.logsumexp(-1).sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad != 0).float().mean() > 0.99


def test_parts_share_the_models_weights(reference: Reference, parts: Parts) -> None:
    own = {p.data_ptr() for p in reference.model.parameters()}
    for part in (parts.vision, parts.embed, parts.decoder):
        assert {p.data_ptr() for p in part.parameters()} <= own


def test_a_size_that_the_processor_would_change(reference: Reference) -> None:
    with pytest.raises(ModelError, match="multiple of 32"):
        load_parts(reference.model, 100)
