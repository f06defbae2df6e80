"""From exported graphs to what an engine loads, one module an engine.

A module has

- FORM: which form of graphs it takes, see `art_export.export.forms`;
- STAGES: names of what it reports, in order;
- LENGTH: most tokens of a sequence by default, None for as many as the model was made for;
- PRECISIONS: precision -> dtype that the model is exported in;
- compile_graphs(graphs, folder, options, report): writes the engine's files below `folder` and
  returns facts for the manifest's `target`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from engines.names import choose

if TYPE_CHECKING:
    import onnx_ir as ir

MODULES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt",
}
"""Engine -> module of this package."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class CompileOptions:
    """What to compile for.

    size: pixels a side. max_length: most tokens of a sequence. max_batch: most rows at a time,
    where an engine must know. compute_capability: GPUs to build for ahead of time, such as
    ("sm89",), empty for the one that is here. refittable: weights can be replaced later.
    """

    engine: str
    precision: str
    size: int
    max_length: int
    max_batch: int = 8
    compute_capability: tuple[str, ...] = ()
    refittable: bool = False


class Compiler(Protocol):
    """What a module of this package offers."""

    FORM: str
    STAGES: tuple[str, ...]
    LENGTH: int | None
    PRECISIONS: Mapping[str, str]

    def compile_graphs(
        self,
        graphs: Mapping[str, ir.Model],
        folder: Path,
        options: CompileOptions,
        report: Report,
    ) -> Mapping[str, str]:
        """Write the engine's files below `folder`; facts for the manifest's `target`."""


def find_compiler(engine: str, precision: str) -> Compiler:
    """The compiler for an engine, which knows the precision.

    Raises:
        OptionError: there is no such engine, or it has no such precision.
    """
    module = MODULES[choose("engine", engine, MODULES)]
    compiler = cast("Compiler", import_module(f"art_export.compilers.{module}"))
    choose(f"precision of {engine}", precision, compiler.PRECISIONS)
    return compiler
