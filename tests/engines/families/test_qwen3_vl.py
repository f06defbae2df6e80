"""Qwen3-VL: what DeepStack adds, and where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engines.errors import ModelError
from engines.families import load_parts, picture_layout
from engines.families.parts import Parts
from engines.model import ModelSource
from engines.reference import Reference
from tests.models import TINY, tiny_model
from tests.real_configs import real_config

SIZE = TINY["qwen3_vl"].size
HIDDEN, DEPTHS = 64, 2


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tiny_model("qwen3_vl", tmp_path_factory.mktemp("tiny") / "model")
    return Reference(ModelSource("tiny", folder))


@pytest.fixture(scope="module")
def parts(reference: Reference) -> Parts:
    return load_parts(reference.model, SIZE)


def _pixels() -> Any:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def _logits(parts: Parts, visual: torch.Tensor) -> torch.Tensor:
    ids = torch.tensor([[20, *[parts.image_token_id] * parts.picture_tokens, 21, 22]])
    marks = (ids == parts.image_token_id)[..., None]
    embeddings = parts.embed(ids).masked_scatter(marks, visual)
    positions, _ = parts.prefix_positions(ids)
    logits: torch.Tensor = parts.decoder(embeddings, None, positions, parts.empty_state(1))[0]
    return logits


@torch.inference_mode()
def test_each_row_is_a_token_and_its_features(reference: Reference, parts: Parts) -> None:
    found = parts.vision(torch.from_numpy(_pixels())[None])[0].split(HIDDEN, dim=-1)
    output = reference.model.get_image_features(**reference.processed(_pixels()), return_dict=True)
    expected = [output.pooler_output[0], *(part[0] for part in output.deepstack_features)]
    assert len(found) == len(expected) == 1 + DEPTHS
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_text_has_no_features(reference: Reference, parts: Parts) -> None:
    found = parts.embed(torch.tensor([[3, 4, 5]]))
    table = reference.model.model.language_model.embed_tokens
    assert torch.equal(found[..., :HIDDEN], table(torch.tensor([[3, 4, 5]])))
    assert found.shape == (1, 3, (1 + DEPTHS) * HIDDEN)
    assert not found[..., HIDDEN:].any()


@torch.inference_mode()
@pytest.mark.parametrize("depth", range(1, 1 + DEPTHS))
def test_every_depth_matters(parts: Parts, depth: int) -> None:
    """A model without one of them is another model, and not by rounding."""
    visual = parts.vision(torch.from_numpy(_pixels())[None])
    without = visual.clone()
    without[..., depth * HIDDEN : (depth + 1) * HIDDEN] = 0
    assert (_logits(parts, visual) - _logits(parts, without)).abs().max() > 0.05


def test_gradients_reach_every_pixel(parts: Parts) -> None:
    pixels = torch.from_numpy(_pixels()).float().requires_grad_()
    _logits(parts, parts.vision(pixels[None])).logsumexp(-1).sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad != 0).float().mean() > 0.99


def test_parts_share_the_models_weights(reference: Reference, parts: Parts) -> None:
    own = {p.data_ptr() for p in reference.model.parameters()}
    for part in (parts.vision, parts.embed, parts.decoder):
        assert {p.data_ptr() for p in part.parameters()} <= own


def test_positions(reference: Reference) -> None:
    """Hugging Face's own, on all three axes, through the picture and after it."""
    inputs = reference.inputs(["x"], [_pixels()])
    expected, _ = reference.model.model.get_rope_index(
        inputs["input_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
    )
    layout = picture_layout(reference.model.config, SIZE)
    found, _ = layout.prefix_positions(inputs["input_ids"][0].tolist())
    assert np.array_equal(found, expected[:, 0].numpy())


def test_pictures_of_the_real_model() -> None:
    layout = picture_layout(real_config("Qwen3-VL-2B"))
    assert (layout.size, layout.unit, layout.tokens) == (256, 32, 64)
    with pytest.raises(ModelError, match="--size 256"):
        picture_layout(real_config("Qwen3-VL-2B"), 250)
