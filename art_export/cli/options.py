"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])
FilePath = click.Path(path_type=Path)
"""No `exists=True`: the library's own message says what was expected and what to do."""

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout."
)
model_argument = click.argument("model")
bundle_argument = click.argument("bundle", type=FilePath)


def size_option(function: Function) -> Function:
    return click.option(
        "--size",
        type=click.IntRange(min=1),
        help="Side of the picture in pixels; by default 256, or what fits the model's patches.",
    )(function)


def output_option(what: str, *, required: bool = True) -> Callable[[Function], Function]:
    return click.option(
        "-o", "--out", type=FilePath, required=required, help=f"{what}; must not exist yet."
    )


def example(*lines: str) -> str:
    """An epilog that click prints as it stands."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
