"""PyTorch as an engine: the parts as they are, to compare compiled engines with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from engines.contract import DecoderInput, Engine, Floats, Ints
from engines.families import load_parts
from engines.families.parts import State
from engines.model import ModelSource, load_model


class TorchEngine(Engine):
    """The parts of a Hugging Face model, run eagerly in fp32.

    `verify` does not take this for its reference: that is Hugging Face's own `generate`.
    """

    name: ClassVar[str] = "torch"

    def __init__(self, model: Any, picture_size: int) -> None:
        self._parts = load_parts(model, picture_size)
        self.state = self._parts.state

    @classmethod
    def from_source(cls, source: ModelSource, picture_size: int) -> TorchEngine:
        return cls(load_model(source), picture_size)

    @torch.inference_mode()
    def vision(self, pixels: NDArray[np.uint8]) -> Floats:
        return _array(self._parts.vision(torch.from_numpy(np.array(pixels))))

    @torch.inference_mode()
    def embed(self, input_ids: Ints) -> Floats:
        return _array(self._parts.embed(torch.from_numpy(input_ids)))

    @torch.inference_mode()
    def decode(self, inputs: DecoderInput, state: State) -> tuple[Floats, State]:
        logits, state = self._parts.decoder(
            torch.from_numpy(inputs.inputs_embeds),
            torch.from_numpy(inputs.attention_mask),
            torch.from_numpy(inputs.position_ids),
            state,
            inputs.logits_to_keep,
        )
        return _array(logits), state

    def load_state(self, arrays: Sequence[NDArray[Any]]) -> State:
        return tuple(torch.from_numpy(np.array(array)) for array in arrays)

    def dump_state(self, state: State) -> tuple[NDArray[Any], ...]:
        return tuple(_array(tensor) for tensor in state)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.numpy()
    return array
