"""Finding TensorRT or TensorRT-RTX, whose Python interfaces are the same, and a GPU for them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from engines.errors import MissingEngineError, OptionError
from engines.files import user_cache

MODULES = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx_bindings", "tensorrt_rtx"),
}
"""Engine -> modules that offer it; the first that is installed is taken."""
EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "tensorrt-rtx"}
TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def load_library(engine: str) -> Any:
    """The module of `engine`.

    Raises:
        MissingEngineError: it is not installed, or its libraries cannot be loaded.
    """
    found = next((name for name in MODULES[engine] if find_spec(name)), None)
    if found is None:
        raise _missing(engine, f"without the package '{MODULES[engine][0]}'")
    try:
        return import_module(found)
    except (ImportError, OSError) as error:
        raise _missing(engine, f"whose package '{found}' cannot be loaded: {error}") from error


def make_logger(library: Any) -> Any:
    """A logger that keeps errors in its list `errors` and prints nothing."""

    class Collector(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Collector()


def cuda_device(engine: str, device: str | None = None) -> torch.device:
    """The CUDA device called `device`, by default the current one.

    Raises:
        OptionError: `device` is not a CUDA device. MissingEngineError: there is none here.
    """
    if device is not None and not device.startswith("cuda"):
        raise OptionError(
            got=f"device '{device}' for {engine}",
            expected="a CUDA device, such as cuda or cuda:1",
            fix="use --device cuda, or another engine",
        )
    if missing := no_cuda():
        raise MissingEngineError(
            got=f"engine '{engine}' on a machine where {missing}",
            expected="an NVIDIA GPU, its driver, and a PyTorch that is built with CUDA",
            fix="run it on a machine with a GPU; tensorrt-rtx builds without one too, with "
            "--compute-capability",
        )
    return torch.device(device or "cuda")


def no_cuda() -> str | None:
    """Why no CUDA device can be used, None if one can."""
    return None if torch.cuda.is_available() else "there is no CUDA device"


def capability_of(device: torch.device) -> str:
    """Compute capability of a GPU, such as "sm89"."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def cache_path(name: str) -> Path:
    """A file in the user's cache folder, for what only saves time."""
    return user_cache() / "tensorrt" / name


def _missing(engine: str, what: str) -> MissingEngineError:
    return MissingEngineError(
        got=f"engine '{engine}' {what}",
        expected=f"{TITLES[engine]} with its Python interface",
        fix=f"pip install 'art-export[{EXTRAS[engine]}]'",
    )
