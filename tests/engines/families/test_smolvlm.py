"""What only SmolVLM has; test_families.py holds it against Hugging Face's model, compiled too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from engines.chat import Chat
from engines.errors import ModelError, PromptError
from engines.families import load_parts, picture_layout
from engines.families.parts import linear_positions
from engines.model import ModelSource
from engines.reference import Reference
from engines.runtime import Runtime
from engines.torch_engine import TorchEngine
from tests.tiny_smolvlm import SIZE, make

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("smolvlm") / "model")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(ModelSource("tiny", folder))


def _pixels(seed: int, size: int = SIZE) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_the_picture_is_written_as_the_processor_writes_it(
    folder: Path, reference: Reference
) -> None:
    chat = Chat.load(folder)
    markers = ("<fake_token_around_image>", "<image>", "<global-img>")
    picture = get_image_prompt_string(0, 0, chat.picture_tokens, *markers)
    expected = f"<|im_start|>User:{picture}Hi<end_of_utterance>\nAssistant:"
    ids = chat.prefix_ids() + chat.tail_ids("Hi")
    assert chat.tokenizer.decode(ids) == expected
    assert ids == reference.inputs(["Hi"], [_pixels(0)])["input_ids"][0].tolist()
    plain = chat.tokenizer.decode(chat.full_ids("Hi"))
    assert plain == "<|im_start|>User: Hi<end_of_utterance>\nAssistant:"


@pytest.mark.parametrize("marker", ["<image>", "<fake_token_around_image>", "<global-img>"])
def test_a_prompt_cannot_forge_a_picture(folder: Path, marker: str) -> None:
    with pytest.raises(PromptError, match="marker"):
        Chat.load(folder).tail_ids(f"see {marker}")


@pytest.mark.parametrize("level", [0, 127, 128, 255])
def test_even_pictures_are_seen(reference: Reference, level: int) -> None:
    """transformers drops pictures that are exactly 0 when normalised; no 8-bit one is."""
    pixels = np.full((SIZE, SIZE, 3), level, np.uint8)
    assert (reference.processed(pixels)["pixel_values"] != 0).all()
    found = TorchEngine(reference.model, SIZE).vision(pixels[None])[0]
    np.testing.assert_allclose(found, reference.vision(pixels), atol=1e-4)


@pytest.mark.parametrize("size", [16, 48, SIZE, 96])
def test_any_size_of_whole_tokens(reference: Reference, size: int) -> None:
    reference.check_size(size)
    parts, pixels = load_parts(reference.model, size), _pixels(3, size)
    picture = torch.from_numpy(pixels)[None]
    values = reference.processed(pixels)
    torch.testing.assert_close(
        parts.vision.patches(picture)[0], values["pixel_values"], rtol=0, atol=1e-6
    )
    assert bool(values["pixel_attention_mask"].all())
    with torch.no_grad():
        found = parts.vision(picture)[0].numpy()
    assert len(found) == parts.picture_tokens == (size // 16) ** 2
    np.testing.assert_allclose(found, reference.vision(pixels), atol=1e-4)


@pytest.mark.parametrize(
    ("patch", "scale", "own", "size"),
    [(16, 4, 512, 512), (16, 4, 512, 256), (14, 3, 384, 384), (14, 3, 384, 378), (14, 3, 384, 252)],
)
def test_published_geometries(tmp_path: Path, patch: int, scale: int, own: int, size: int) -> None:
    """SmolVLM2-256M and 500M are 512 / 16 / 4, the 2.2B is 384 / 14 / 3."""
    vision = {"patch_size": patch, "image_size": own, "num_hidden_layers": 1}
    reference = Reference(ModelSource("x", make(tmp_path / "m", vision=vision, scale_factor=scale)))
    config = reference.model.config
    assert picture_layout(config, None).size == own
    found = TorchEngine(reference.model, size).vision(_pixels(4, size)[None])[0]
    assert len(found) == picture_layout(config, size).tokens == (size // (patch * scale)) ** 2
    np.testing.assert_allclose(found, reference.vision(_pixels(4, size)), atol=1e-4)


@pytest.mark.parametrize("side", [2, 8, 12, 82])
def test_position_embeddings(reference: Reference, side: int) -> None:
    """With 82 patches a side, rounding moves some across a boundary."""
    embeddings = reference.model.model.vision_model.embeddings
    black = torch.zeros(1, 3, 8 * side, 8 * side)
    with torch.no_grad():
        expected = embeddings(black, torch.ones(1, side, side, dtype=torch.bool))[0]
    found = load_parts(reference.model, 8 * side).vision.places
    bias = embeddings.patch_embedding.bias
    torch.testing.assert_close(found + bias, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"tie_word_embeddings": True},
        {"text": {"attention_bias": True, "mlp_bias": True}},
        {"text": {"num_key_value_heads": 4}},
        {"text": {"num_key_value_heads": 1, "head_dim": 16}},
        {"text": {"rope_parameters": LLAMA3}},
        {"text": {"rope_parameters": {**LLAMA3, "rope_type": "linear"}}},
        {"text": {"rope_parameters": {**LLAMA3, "rope_type": "yarn"}}},
    ],
    ids=["tied", "biases", "no groups", "one group", "llama3", "linear", "yarn"],
)
def test_what_configurations_change(tmp_path: Path, options: dict[str, Any]) -> None:
    source = ModelSource("x", make(tmp_path / "m", **options))
    reference = Reference(source)
    runtime = Runtime(TorchEngine(reference.model), Chat.load(source.path))
    prompt, pixels = "How many apples? " * 30, _pixels(5)
    prefix = runtime.prefix(pixels)
    tail = runtime.tail(prompt, prefix)
    expected = reference.prefill_logits(prompt, pixels)[-len(tail) :]
    np.testing.assert_allclose(runtime.tail_logits(tail, prefix), expected, atol=2e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"rope_parameters": {**LLAMA3, "rope_type": "dynamic"}}, "depend on the length"),
        ({"model_type": "qwen2"}, "text model of type 'qwen2'"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: dict[str, Any], message: str) -> None:
    reference = Reference(ModelSource("x", make(tmp_path / "m", text=text)))
    with pytest.raises(ModelError, match=message):
        load_parts(reference.model)


def test_a_size_that_cuts_tokens_is_refused(reference: Reference) -> None:
    with pytest.raises(ModelError, match="multiple of 16"):
        load_parts(reference.model, 100)


def test_gradients_reach_every_pixel_through_an_expanded_state(reference: Reference) -> None:
    parts = load_parts(reference.model, SIZE)
    pixels = torch.from_numpy(_pixels(6)).float().requires_grad_()
    prefix = torch.tensor([[3, *[parts.image_token_id] * parts.picture_tokens, 4]])
    marks = (prefix == parts.image_token_id)[..., None]
    embeddings = parts.embed(prefix).masked_scatter(marks, parts.vision(pixels[None]))
    positions, following = parts.prefix_positions(prefix)
    assert following == prefix.shape[1]
    _, state = parts.decoder(embeddings, None, positions, parts.empty_state(1), 1)
    expanded = tuple(tensor.expand(3, *tensor.shape[1:]) for tensor in state)
    tails = torch.tensor([[7, 8], [9, 10], [11, 12]])
    places = linear_positions(torch.tensor([following] * 3), 2)
    logits, _ = parts.decoder(parts.embed(tails), None, places, expanded, 0)
    logits.logsumexp(-1).sum().backward()
    assert pixels.grad is not None and bool(pixels.grad.isfinite().all())
    assert (pixels.grad != 0).float().mean() > 0.99


def test_parts_share_the_models_weights(reference: Reference) -> None:
    parts = load_parts(reference.model, SIZE)
    own = {p.data_ptr() for p in reference.model.parameters()}
    for part in (parts.vision, parts.embed, parts.decoder):
        assert {p.data_ptr() for p in part.parameters()} <= own


def test_answers_are_written_as_the_template_does(folder: Path) -> None:
    """Its template puts a space before an answer, which no generation prompt shows."""
    chat = Chat.load(folder)
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "How many?"), ("assistant", "42"))
    ]
    whole = chat.tokenizer.apply_chat_template(turns, tokenize=False)
    ids = chat.full_ids("How many?") + chat.answer_ids("42")
    assert whole.startswith(chat.tokenizer.decode(ids))
