"""One file of weights for all graphs of a bundle: equal tensors are stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

ALIGNMENT = 4096
"""Bytes: a page, so that every tensor can be mapped into memory."""
INLINE_BELOW = 1024
"""Bytes: smaller tensors stay in the graph, where constant folding can see them."""


class WeightFile:
    """Writes tensors to one external-data file, each content only once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[tuple[str, str], tuple[int, int]] = {}

    def move_out(self, models: Mapping[Path, ir.Model]) -> None:
        """Save every model at its path with its weights in this file, beside it."""
        with self._path.open("wb") as file:
            for model in models.values():
                for value in model.graph.initializers.values():
                    if value.const_value is not None and value.const_value.nbytes >= INLINE_BELOW:
                        value.const_value = self._external(file, value.const_value)
        for path, model in models.items():
            ir.save(model, path)

    def _external(self, file: BinaryIO, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        data = tensor.tobytes()
        key = (str(tensor.dtype), hashlib.sha256(data).hexdigest())
        if key not in self._places:
            file.write(bytes(-file.tell() % ALIGNMENT))
            self._places[key] = (file.tell(), len(data))
            file.write(data)
        offset, length = self._places[key]
        return ir.ExternalTensor(
            self._path.name,
            offset,
            length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            base_dir=self._path.parent,
        )
