"""From exported graphs to what an engine loads, one module an engine.

A module has

- FORMS: which form of graphs it takes, see `art_export.export.forms`, by the execution provider
  that is built for; None is the engine's own choice;
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

from engines.errors import OptionError
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
    ("sm89",), empty for the one that is here. refittable: weights can be replaced later. provider:
    ONNX Runtime's execution provider, None for the engine's own choice.
    """

    engine: str
    precision: str
    size: int
    max_length: int
    max_batch: int = 8
    compute_capability: tuple[str, ...] = ()
    refittable: bool = False
    provider: str | None = None


class Compiler(Protocol):
    """What a module of this package offers."""

    FORMS: Mapping[str | None, str]
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


def find_compiler(engine: str, precision: str, provider: str | None = None) -> Compiler:
    """The compiler for an engine, which knows the precision and the execution provider.

    Raises:
        OptionError: there is no such engine, or it has no such precision or provider.
    """
    module = MODULES[choose("engine", engine, MODULES)]
    compiler = cast("Compiler", import_module(f"art_export.compilers.{module}"))
    choose(f"precision of {engine}", precision, compiler.PRECISIONS)
    providers = [name for name in compiler.FORMS if name is not None]
    if provider is not None and not providers:
        raise OptionError(
            got=f"--provider {provider} for {engine}",
            expected="an execution provider of onnxruntime alone",
            fix="leave out --provider, or build with --engine onnxruntime",
        )
    if provider is not None:
        choose(f"provider of {engine}", provider, providers)
    return compiler
