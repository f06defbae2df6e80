"""Model families, one module each, named by the `model_type` of their configuration."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engines.errors import ModelError

if TYPE_CHECKING:
    from engines.families.parts import Parts

FAMILIES = ("qwen3_5",)


def check_family(model_type: str) -> str:
    """`model_type` if it is supported, else a ModelError that lists what is."""
    if model_type not in FAMILIES:
        raise ModelError(
            got=f"a model of type '{model_type}'",
            expected=f"one of: {', '.join(FAMILIES)}",
            fix="use a dense model of a supported family",
        )
    return model_type


def load_parts(model: Any, picture_size: int) -> Parts:
    """The three parts of a Hugging Face model, sharing its parameters.

    Raises:
        ModelError: the family is not supported, or its patches do not fit `picture_size`.
    """
    family = import_module(f"engines.families.{check_family(model.config.model_type)}")
    vision = model.config.vision_config
    unit = vision.patch_size * vision.spatial_merge_size
    if picture_size < unit or picture_size % unit:
        raise ModelError(
            got=f"a picture size of {picture_size}",
            expected=f"a multiple of {unit} (patch {vision.patch_size} x merge "
            f"{vision.spatial_merge_size}), so that the model's processor does not resize it",
            fix=f"use --size {max(unit, round(picture_size / unit) * unit)}",
        )
    parts: Parts = family.make_parts(model, picture_size)
    return parts
