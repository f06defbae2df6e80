"""The one contract that every run-time back end fulfils."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from engines.positions import text_positions
from engines.state import StateTensor

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class DecoderInput:
    """What the decoder reads beside its state.

    inputs_embeds: fp32 (batch, length, hidden).
    attention_mask: int64 (batch, past + length), 0 for padding, at the left end only.
    position_ids: int64 (3, batch, length).
    logits_to_keep: logits of how many last positions to return, 0 for all.
    """

    inputs_embeds: Floats
    attention_mask: Ints
    position_ids: Ints
    logits_to_keep: int = 1


@dataclass(frozen=True)
class EngineOptions:
    """Where and how an engine runs; None is the engine's own choice.

    device: "cpu", "cuda", "cuda:1", or a name that the engine knows ("GPU", "NPU" of OpenVINO).
    provider: ONNX Runtime's execution provider: "cpu", "cuda" or "tensorrt".
    threads: CPU threads.
    """

    device: str | None = None
    provider: str | None = None
    threads: int | None = None


class Stepper(ABC):
    """A decode loop under way: what it needs is set up once, and a step allocates nothing."""

    @abstractmethod
    def step(self, tokens: Ints) -> Floats:
        """Append tokens (batch,) -> logits (batch, vocabulary), valid until the next step."""

    @abstractmethod
    def dump(self) -> tuple[NDArray[Any], ...]:
        """A copy of the state after the steps made so far, as `Engine.dump_state` gives one."""


class Engine(ABC):
    """A compiled or reference model: three calls, and a state that only it can read.

    An engine knows nothing of prompts, pictures' names or sampling. States are values: `decode`
    and `stepper` leave the one that they start from as it was.
    """

    name: ClassVar[str]
    state: tuple[StateTensor, ...]
    max_batch: int | None = None
    """Most rows at a time, where the engine was built for a number of them."""

    @classmethod
    def open(cls, folder: Path, options: EngineOptions = EngineOptions()) -> Self:
        """Load what was compiled for this engine in a bundle's folder."""
        raise NotImplementedError(f"{cls.name} is not compiled into bundles")

    @classmethod
    def unavailable(cls) -> str | None:
        """Why this engine, though installed, cannot run on this machine; None if it can."""
        return None

    @abstractmethod
    def vision(self, pixels: NDArray[np.uint8]) -> Floats:
        """Pixels (n, size, size, 3) -> visual tokens (n, tokens, hidden)."""

    @abstractmethod
    def embed(self, input_ids: Ints) -> Floats:
        """Token ids (batch, length) -> embeddings (batch, length, hidden)."""

    @abstractmethod
    def decode(self, inputs: DecoderInput, state: Any) -> tuple[Floats, Any]:
        """One pass of the decoder -> logits (batch, kept, vocabulary) and the new state."""

    @abstractmethod
    def load_state(self, arrays: Sequence[NDArray[Any]]) -> Any:
        """A state from arrays in the order of `self.state`, batch first."""

    @abstractmethod
    def dump_state(self, state: Any) -> tuple[NDArray[Any], ...]:
        """The arrays of a state, in the order of `self.state`."""

    def stepper(self, state: Any, mask: Ints, positions: Ints, room: int) -> Stepper:
        """Start a decode loop of at most `room` steps.

        Args:
            mask: (batch, past), 0 for padding, at the left end only.
            positions: (batch,), of the next token.
        """
        return _PlainStepper(self, state, mask, positions)

    def close(self) -> None:  # noqa: B027 - an engine without resources has nothing to do
        """Release what the engine holds; it must not be used afterwards."""

    def empty_state(self, batch: int = 1) -> Any:
        """The state before any token."""
        return self.load_state(
            [
                np.zeros((batch, *(0 if n is None else n for n in spec.shape)), np.float32)
                for spec in self.state
            ]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _PlainStepper(Stepper):
    """For engines without anything better: embed and decode, one after the other."""

    def __init__(self, engine: Engine, state: Any, mask: Ints, positions: Ints) -> None:
        self._engine, self._state = engine, state
        self._mask, self._positions = mask, positions

    def step(self, tokens: Ints) -> Floats:
        one = np.ones((len(tokens), 1), np.int64)
        self._mask = np.concatenate([self._mask, one], axis=1)
        embeddings = self._engine.embed(tokens[:, None])
        inputs = DecoderInput(embeddings, self._mask, text_positions(self._positions, 1))
        logits, self._state = self._engine.decode(inputs, self._state)
        self._positions = self._positions + 1
        last: Floats = logits[:, -1]
        return last

    def dump(self) -> tuple[NDArray[Any], ...]:
        return self._engine.dump_state(self._state)
