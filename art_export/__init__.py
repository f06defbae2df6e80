"""Compile a frozen multimodal model once, then adapt it by swapping pictures.

Importing this package loads nothing heavy; the command line depends on that.
"""

from typing import Any

__version__ = "0.1.0"

_LAZY = {"ArtModelForImageTextToText": "art_export.optimum_model"}
"""Public name -> the module that is imported when the name is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
