"""LoRA in inputs that the graph was built with: swapped without rebuilding anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar

from art_export.bench.contender import Contender
from engines.bundle import BundleFolder
from engines.contract import EngineOptions
from engines.errors import OptionError
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.onnxruntime_lora import Adapter, check_fits, read_onnx_adapter, stacked
from engines.prefix import PrefixState
from engines.registry import open_runtime


class RuntimeContender(Contender):
    """A bundle with room for LoRA; an adapter is a file of ONNX Runtime's own format."""

    grouped: ClassVar[bool] = True

    def __init__(self, bundle: Path, options: EngineOptions) -> None:
        self.runtime = open_runtime(BundleFolder.open(bundle), options)
        engine = self.runtime.engine
        if not isinstance(engine, OnnxRuntimeEngine) or not engine.lora_inputs:
            raise OptionError(
                got=f"{bundle}, a bundle without room for LoRA",
                expected="one that was built with --reserve-lora",
                fix="build it so",
            )
        self.engine = engine
        self._empty = self.runtime.prefix(None)
        self._stacked: tuple[tuple[int, ...], Adapter] = ((), {})

    def deploy(self, adapter: Path) -> tuple[dict[str, float], Adapter]:
        began = time.perf_counter()
        held = self.hold(adapter)
        return {"read": time.perf_counter() - began}, held

    def hold(self, adapter: Path) -> Adapter:
        held = read_onnx_adapter(adapter)
        check_fits(held, self.engine.lora_inputs)
        return held

    def prefix(self, held: Adapter | None) -> PrefixState:
        return self._empty

    def computing(self, held: Sequence[Adapter | None]) -> AbstractContextManager[None]:
        """Rows with different adapters compute with A and B stacked by row."""
        present = [each for each in held if each is not None]
        if not present:
            return nullcontext()
        if all(each is present[0] for each in held):
            return self.engine.adapted(present[0])
        key = tuple(id(each) for each in present)
        if key != self._stacked[0]:
            # The last ones go first: those of a large batch are gigabytes.
            self._stacked = (), {}
            joined = stacked(present, range(len(present)))
            self._stacked = key, {name: self.engine.value(array) for name, array in joined}
        return self.engine.adapted(self._stacked[1])
