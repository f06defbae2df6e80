"""The forms that one definition of the parts is exported in.

`kernels` uses ONNX Runtime's own operators where it has kernels for a whole operation; `portable`
is made of standard ONNX operators alone. A form is a module with `lowerings()`, the translation of
every `art` operator, and the OPSET that its nodes belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from engines.names import choose

FORMS = {"kernels": "art_export.export.kernels", "portable": "art_export.export.portable"}


class Form(Protocol):
    """What a form's module offers."""

    OPSET: int

    def lowerings(self) -> Mapping[Callable[..., Any], Callable[..., Any]]:
        """Operator -> translation, for torch.onnx's `custom_translation_table`."""


def find_form(name: str) -> Form:
    """The form called `name`."""
    return cast("Form", import_module(FORMS[choose("form", name, FORMS)]))
