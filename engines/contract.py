"""The one contract that every run-time back end fulfils."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

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


class Engine(ABC):
    """A compiled or reference model: three calls, and a state that only it can read.

    An engine knows nothing of prompts, pictures' names or sampling. States are values: `decode`
    returns a new one and leaves the old one as it was.
    """

    name: ClassVar[str]
    state: tuple[StateTensor, ...]

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
