"""Engines by name; an engine's packages are imported when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from engines.bundle import BundleFolder
from engines.chat import Chat
from engines.contract import Engine, EngineOptions
from engines.errors import MissingEngineError
from engines.names import choose
from engines.runtime import Runtime


@dataclass(frozen=True)
class Entry:
    """`target` is "module:Class", `package` what must be importable, `extra` what installs it."""

    target: str
    package: str
    extra: str | None


ENGINES = {
    "onnxruntime": Entry("engines.onnxruntime_engine:OnnxRuntimeEngine", "onnxruntime", None),
    "openvino": Entry("engines.openvino_engine:OpenVinoEngine", "openvino", "openvino"),
    "tensorrt": Entry("engines.tensorrt_engine:TensorRtEngine", "tensorrt", "gpu"),
    "tensorrt-rtx": Entry(
        "engines.tensorrt_engine:TensorRtRtxEngine", "tensorrt_rtx_bindings", "tensorrt-rtx"
    ),
    "torch": Entry("engines.torch_engine:TorchEngine", "torch", None),
}
COMPILED = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
"""Engines that a bundle can be built for."""


def installed() -> tuple[str, ...]:
    """Names of the engines whose packages are here."""
    return tuple(name for name, entry in ENGINES.items() if find_spec(entry.package))


def engine_class(name: str) -> type[Engine]:
    """The class of the engine `name`.

    Raises:
        OptionError: there is no such engine.
        MissingEngineError: its package is not installed.
    """
    entry = ENGINES[choose("engine", name, ENGINES)]
    if not find_spec(entry.package):
        extra = f"art-export[{entry.extra}]" if entry.extra else entry.package
        raise MissingEngineError(
            got=f"engine '{name}' without the package '{entry.package}'",
            expected=f"an installed engine, one of: {', '.join(installed())}",
            fix=f"pip install '{extra}'",
        )
    module, _, attribute = entry.target.partition(":")
    found: type[Engine] = getattr(import_module(module), attribute)
    return found


def open_engine(name: str, folder: Path, options: EngineOptions = EngineOptions()) -> Engine:  # noqa: B008
    """Load what was compiled for the engine `name` in a bundle's folder.

    Raises:
        MissingEngineError: its package is not installed.
        OptionError: the engine cannot run so on this machine.
    """
    return engine_class(name).open(folder, options)


def open_runtime(folder: BundleFolder, options: EngineOptions = EngineOptions()) -> Runtime:  # noqa: B008
    """Load a bundle into the engine that it was built for, with its own chat format and limits.

    Raises:
        MissingEngineError, OptionError: as `open_engine`.
    """
    manifest = folder.manifest
    engine = open_engine(manifest.engine, folder.path, options)
    chat = Chat.load(folder.path, manifest.picture_size)
    # A bundle may have been built for shorter sequences than the model was made for.
    return Runtime(engine, replace(chat, max_length=manifest.max_length))
