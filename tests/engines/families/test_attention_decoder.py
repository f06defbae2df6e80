"""The parts of the shared decoder that a model's own forward does not show one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from engines.errors import ModelError
from engines.families.attention_decoder import (
    check_attention,
    interleaved_axes,
    sectioned_axes,
)
from engines.model import ModelSource, load_model
from tests.models import tiny_model
from tests.real_configs import real_config


@pytest.mark.parametrize(
    ("name", "rotary", "interleaved"),
    [
        ("Qwen3-VL-2B", Qwen3VLTextRotaryEmbedding, True),
        ("Qwen2.5-VL-3B", Qwen2VLRotaryEmbedding, False),
    ],
)
def test_axes_of_real_models(name: str, rotary: Any, interleaved: bool) -> None:
    """Each frequency reads the position that Hugging Face's rotary embedding gives it."""
    embedding = rotary(real_config(name).text_config)
    count, sections = len(embedding.inv_freq), embedding.mrope_section
    axes = interleaved_axes(sections, count) if interleaved else sectioned_axes(sections)
    assert len(axes) == count
    positions = torch.tensor([3, 50, 700])[:, None, None]
    cos, _ = embedding(torch.zeros(1), positions)
    expected = (positions[list(axes), 0, 0] * embedding.inv_freq).cos()
    torch.testing.assert_close(cos[0, 0, :count], expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_model("qwen2_vl", tmp_path_factory.mktemp("tiny") / "model")
    return load_model(ModelSource("tiny", folder)).model.language_model


def test_a_sliding_window(text: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_attention(text)
    monkeypatch.setattr(text.config, "layer_types", ["full_attention", "sliding_attention"])
    monkeypatch.setattr(text.config, "sliding_window", 4096)
    with pytest.raises(ModelError, match=r"4096 tokens(.|\n)*use_sliding_window to false"):
        check_attention(text)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_change(text: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text.rotary_emb, "rope_type", kind)
    with pytest.raises(ModelError, match=f"rope_type '{kind}'"):
        check_attention(text)


def test_a_sliding_window_in_config_json(tmp_path: Path) -> None:
    """The names above are those that transformers makes of what users have."""
    from transformers import Qwen2VLTextConfig

    config = Qwen2VLTextConfig(
        use_sliding_window=True, sliding_window=4096, max_window_layers=1, num_hidden_layers=2
    )
    assert config.layer_types == ["full_attention", "sliding_attention"]
