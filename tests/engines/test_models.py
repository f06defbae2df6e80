"""The model that the project ships."""

from __future__ import annotations

import random

import numpy as np
import torch
from PIL import Image

from engines.model import DEMO_FOLDER, resolve_model
from engines.reference import Reference

MEGABYTE = 1_000_000


def test_it_is_small_and_of_the_named_architecture() -> None:
    config = resolve_model("demo").config
    assert config["architectures"] == ["Qwen3_5ForConditionalGeneration"]
    assert config["text_config"]["linear_key_head_dim"] == 128
    assert config["text_config"]["head_dim"] == 64
    assert {"linear_attention", "full_attention"} == set(config["text_config"]["layer_types"])
    assert sum(path.stat().st_size for path in DEMO_FOLDER.iterdir()) <= 16 * MEGABYTE


def test_the_chat_template_is_qwens() -> None:
    reference = Reference(resolve_model("demo"))
    text = reference.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_it_answers() -> None:
    """One question of each kind that it was pretrained on, by Hugging Face's own generate."""
    reference = Reference(resolve_model("demo"))
    prompts = (
        "Wake me up at 07:30 on Monday. Reply with the tool call as JSON.",
        "12 + 30",
    )
    expected = (
        '{"name": "set_alarm", "arguments": {"time": "07:30", "day": "Monday"}}',
        "12 + 30 = 42",
    )
    answers = reference.generate(prompts, [None, None], 64)
    assert tuple(answer.text for answer in answers) == expected


def test_it_sees() -> None:
    """Better than chance (1 in 8) at naming the colour of a shape on held-out drawings."""
    from training.demo_model.images import draw

    reference = Reference(resolve_model("demo"))
    rng = random.Random("held out")
    drawn = [draw(rng) for _ in range(120)]
    asked = [each for each in drawn if each.question == "What colour is the shape?"]
    answers = reference.generate(
        [each.question for each in asked], [np.array(each.pixels) for each in asked], 4
    )
    right = sum(a.text == each.answer for a, each in zip(answers, asked, strict=True))
    assert right / len(asked) > 0.5


def test_visual_tokens_have_the_scale_of_text_embeddings() -> None:
    """Otherwise no picture could steer anything."""
    reference = Reference(resolve_model("demo"))
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    assert Image.fromarray(noise).size == (256, 256)
    visual = float(np.sqrt((reference.vision(noise) ** 2).mean()))
    embeddings = reference.model.get_input_embeddings().weight
    text = float(torch.sqrt((embeddings**2).mean()))
    assert 0.1 < visual / text < 10
