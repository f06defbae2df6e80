"""LoRA merged into the weights: a new model, exported and built like any other."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from art_export.bench.contender import Contender
from engines.bundle import BundleFolder
from engines.contract import EngineOptions
from engines.registry import open_runtime


class MergedContender(Contender):
    """The bundle that was built from the merged weights; there is nothing left to put in use."""

    def __init__(self, bundle: Path, options: EngineOptions) -> None:
        self.runtime = open_runtime(BundleFolder.open(bundle), options)

    def deploy(self, adapter: Path) -> tuple[dict[str, float], None]:
        return {}, None

    def hold(self, adapter: Path) -> None:
        return None


def merge_and_build(
    model: str, adapter: Path, out: Path, precision: str, size: int | None
) -> dict[str, float]:
    """Merge, export and build into `out`, replacing what is there: seconds by step."""
    from art_export.build import BuildOptions, build
    from engines.lora import save_merged

    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    save_merged(model, adapter, out / "model")
    merged = time.perf_counter() - began
    options = BuildOptions(str(out / "model"), out / "bundle", precision=precision, size=size)
    steps = build(options).seconds
    # The weights are in the bundle now, and a second copy may be gigabytes.
    shutil.rmtree(out / "model")
    return {"merge": merged, **{f"build: {n}": s for n, s in steps.items() if n != "total"}}
