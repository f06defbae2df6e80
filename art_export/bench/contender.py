"""What a method of adapting has in common with the others once its engine is loaded here.

Everything that is timed is timed through this, so that all methods are measured alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from engines.prefix import PrefixState
from engines.rows import Row, join
from engines.runtime import Completion, Runtime


class Contender(ABC):
    """A method in this process. A held adapter is whatever the method keeps of one in memory to
    answer requests with it; None is the plain model."""

    runtime: Runtime
    grouped: ClassVar[bool] = False
    """Whether to measure also what it costs to decode one adapter's rows after another's."""

    @abstractmethod
    def deploy(self, adapter: Path) -> tuple[dict[str, float], Any]:
        """From the adapter's file to where a request can begin: seconds by step, in order, and
        what is held."""

    @abstractmethod
    def hold(self, adapter: Path) -> Any:
        """An adapter that was put in use before, brought into memory again."""

    def ship(self, adapter: Path) -> Path | None:
        """An adapter that was put in use before, as it arrives at another machine from the one that
        did that, for `hold`; None where nothing but the adapter's own file could arrive."""
        return None

    def prefix(self, held: Any) -> PrefixState:
        """The state that a request starts from."""
        return self.runtime.prefix(None)

    def computing(self, held: Sequence[Any]) -> AbstractContextManager[None]:
        """Inside, row i of what is decoded or started computes with held[i]."""
        return nullcontext()

    def row(self, held: Any, prompt: str) -> tuple[Row, NDArray[np.float32]]:
        """The prompt read under an adapter, with the logits (vocabulary,) of the first token."""
        prefix = self.prefix(held)
        with self.computing([held]):
            rows, logits = self.runtime.prefill_rows([self.runtime.tail(prompt, prefix)], [prefix])
        return rows[0], logits[0]

    def stepper(self, rows: Sequence[Row], held: Sequence[Any], room: int) -> Any:
        """A decode loop over rows, each with its adapter."""
        joined = join(self.runtime.engine, rows)
        mask, positions = joined.mask, joined.positions
        state = self.runtime.engine.load_state(joined.arrays)
        # Every copy of the states of a large batch is gigabytes, and the stepper makes one more.
        del joined
        with self.computing(held):
            return self.runtime.engine.stepper(state, mask, positions, room)

    def answer(self, held: Any, prompts: Sequence[str], count: int) -> list[Completion]:
        """Greedy answers under one adapter."""
        prefixes = [self.prefix(held)] * len(prompts)
        batch = 32
        found: list[Completion] = []
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            with self.computing([held] * len(part)):
                found += self.runtime.generate(part, prefixes[: len(part)], count, batch)
        return found

    def close(self) -> None:
        """Release the engine."""
        self.runtime.engine.close()
