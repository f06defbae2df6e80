"""Graphs of tiny models in the portable form, exported once for all tests of one process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from art_export.export.graphs import export_parts
from art_export.export.portable import finish
from engines.families import load_parts
from engines.model import ModelSource, load_model
from tests.models import TINY, tiny_model

PARTS = ("vision", "embed", "decoder")
_KEPT: list[TemporaryDirectory[str]] = []
"""Folders that go when the process does."""


@cache
def tiny_source(family: str) -> ModelSource:
    """A tiny model of a family, in a folder of its own."""
    return ModelSource(family, tiny_model(family, _folder()))


@cache
def portable_graphs(family: str, dtype: str = "fp32") -> Path:
    """A folder with vision.onnx, embed.onnx and decoder.onnx of `tiny_source(family)`."""
    folder = _folder()
    parts = load_parts(load_model(tiny_source(family), dtype), TINY[family].size)
    for name, graph in export_parts(parts, "portable"):
        finish(graph)
        ir.save(graph, folder / f"{name}.onnx")
    return folder


def load_graphs(family: str, dtype: str = "fp32") -> dict[str, ir.Model]:
    """Fresh copies of the graphs, for code that changes them."""
    folder = portable_graphs(family, dtype)
    return {name: ir.load(folder / f"{name}.onnx") for name in PARTS}


def _folder() -> Path:
    folder = TemporaryDirectory(prefix="art-export-")
    _KEPT.append(folder)
    return Path(folder.name)
