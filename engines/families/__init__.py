"""Model families, one module each, named by the `model_type` of their configuration."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engines.errors import ModelError

if TYPE_CHECKING:
    from engines.families.parts import Parts
    from engines.layout import PictureLayout

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl", "smolvlm")


def check_family(model_type: str) -> str:
    """`model_type` if it is supported, else a ModelError that lists what is."""
    if model_type not in FAMILIES:
        raise ModelError(
            got=f"a model of type '{model_type}'",
            expected=f"one of: {', '.join(FAMILIES)}",
            fix="use a dense model of a supported family",
        )
    return model_type


def picture_layout(config: Any, size: int | None = None) -> PictureLayout:
    """How a model with the configuration `config` sees pictures of `size`; None: its usual size.

    Raises:
        ModelError: the family is not supported, or its processor would resize such a picture.
    """
    layout: PictureLayout = _family(config).picture_layout(config, size)
    return layout


def load_parts(model: Any, picture_size: int | None = None) -> Parts:
    """The three parts of a Hugging Face model, sharing its parameters.

    Raises:
        ModelError: the family is not supported, or its processor would resize such a picture.
    """
    parts: Parts = _family(model.config).make_parts(
        model, picture_layout(model.config, picture_size)
    )
    for part in (parts.vision, parts.decoder):
        # Their own buffers are not the model's, which may have been moved before.
        part.to(next(model.parameters()).device)
    return parts


def _family(config: Any) -> Any:
    return import_module(f"engines.families.{check_family(config.model_type)}")
