"""What a measurement was taken on: the machine and the packages, for records and benchmarks."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "art-export", "torch", "transformers", "numpy", "pillow", "peft", "onnx", "onnxruntime",
    "onnxruntime-gpu", "onnxruntime-genai", "openvino", "nncf", "tensorrt",
    "tensorrt-rtx-cu13-bindings",
)  # fmt: skip


STATISTICS = Path("/proc/stat")


class OtherWork:
    """What other processes than this one and its children have done since it was made."""

    def __init__(self) -> None:
        self._worked, self._began = self._elsewhere(), time.monotonic()

    def cores(self) -> float:
        """How many cores they kept busy: times taken beside anything else say little. 0 where the
        system does not say."""
        passed = time.monotonic() - self._began
        return max(0.0, (self._elsewhere() - self._worked) / passed) if passed else 0.0

    @staticmethod
    def _elsewhere() -> float:
        """Seconds that all cores have worked, but for this process and its ended children."""
        if not STATISTICS.is_file():
            return 0.0
        user, nice, system = STATISTICS.read_text("ascii").splitlines()[0].split()[1:4]
        ticks = os.sysconf("SC_CLK_TCK")
        return (int(user) + int(nice) + int(system)) / ticks - sum(os.times()[:4])


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
    """CPU, usable cores, memory in GiB, the GPU where PyTorch has found one, system, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_name(_cpuinfo()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        **_gpu(),
        "system": platform.platform(),
        **versions(),
    }


def _gpu() -> dict[str, str]:
    # PyTorch is not loaded for this: who has computed on a GPU has loaded it.
    torch = sys.modules.get("torch")
    return {"gpu": torch.cuda.get_device_name()} if torch and torch.cuda.is_available() else {}


def cpu() -> dict[str, str | bool | None]:
    """The kind of CPU: `name`; `family` and `model`, which machines that hide their name still
    tell; `flags`, the first 12 hex digits of the SHA-256 of what it says it can do; and whether it
    has the instructions on which speed, and the rounding of sums, depend most."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    digest = hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest()
    return {
        "name": _cpu_name(info),
        "family": info.get("cpu family"),
        "model": info.get("model"),
        "flags": digest[:12] if flags else None,
        "avx2": "avx2" in flags,
        "avx512": "avx512f" in flags,
        "vnni": bool(flags & {"avx512_vnni", "avx_vnni"}),
        "bf16": bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}),
    }


def _cpu_name(info: Mapping[str, str]) -> str:
    return info.get("model name") or platform.processor() or platform.machine()


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first CPU; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    first = path.read_text("utf-8").split("\n\n")[0] if path.is_file() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
