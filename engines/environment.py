"""What a measurement was taken on: the machine and the packages, for records and benchmarks."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "art-export", "torch", "transformers", "numpy", "pillow", "peft", "onnx", "onnxruntime",
    "onnxruntime-gpu", "onnxruntime-genai", "openvino", "nncf", "tensorrt",
    "tensorrt-rtx-cu13-bindings",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Python and every package of PACKAGES that is installed -> version."""
    return {"python": platform.python_version(), **installed(PACKAGES)}


def installed(names: Iterable[str]) -> dict[str, str]:
    """Those packages of `names` that are installed -> version."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str | int]:
    """CPU, usable cores, memory in GiB, system and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        "system": platform.platform(),
        **versions(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
