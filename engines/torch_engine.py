"""PyTorch as an engine: the parts as they are, to compare compiled engines with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from engines.contract import DecoderInput, Engine, Floats, Ints
from engines.errors import OptionError
from engines.families import load_parts
from engines.families.parts import State
from engines.model import ModelSource, load_model


class TorchEngine(Engine):
    """The parts of a Hugging Face model, run eagerly in the model's dtype.

    `verify` does not take this for its reference: that is Hugging Face's own `generate`.
    """

    name: ClassVar[str] = "torch"

    def __init__(self, model: Any, picture_size: int | None = None, device: str = "cpu") -> None:
        self._parts = load_parts(model.to(checked_device(device)), picture_size)
        self._device = device
        self.state = self._parts.state

    @classmethod
    def from_source(
        cls,
        source: ModelSource,
        picture_size: int | None = None,
        dtype: str = "fp32",
        device: str = "cpu",
    ) -> TorchEngine:
        """Load the model at `source`.

        Raises:
            ModelError: the model is not supported. OptionError: there is no such device.
        """
        return cls(load_model(source, dtype), picture_size, device)

    @torch.inference_mode()
    def vision(self, pixels: NDArray[np.uint8]) -> Floats:
        return _floats(self._parts.vision(self._tensor(np.array(pixels))))

    @torch.inference_mode()
    def embed(self, input_ids: Ints) -> Floats:
        return _floats(self._parts.embed(self._tensor(input_ids)))

    @torch.inference_mode()
    def decode(self, inputs: DecoderInput, state: State) -> tuple[Floats, State]:
        logits, state = self._parts.decoder(
            self._tensor(inputs.inputs_embeds).to(next(self._parts.decoder.parameters()).dtype),
            self._tensor(inputs.attention_mask),
            self._tensor(inputs.position_ids),
            state,
            inputs.logits_to_keep,
        )
        return _floats(logits), state

    def load_state(self, arrays: Sequence[NDArray[Any]]) -> State:
        empty = self._parts.empty_state(1)
        return tuple(
            self._tensor(np.array(array)).to(like.dtype)
            for array, like in zip(arrays, empty, strict=True)
        )

    def dump_state(self, state: State) -> tuple[NDArray[Any], ...]:
        return tuple(_floats(tensor) for tensor in state)

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def checked_device(device: str) -> str:
    """`device` if PyTorch can compute on it here."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            got=f"the device '{device}', which PyTorch cannot use: {str(error).splitlines()[0]}",
            expected="cpu, or cuda with a GPU and a CUDA build of PyTorch",
            fix="choose another --device",
        ) from error
    return device


def _floats(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array
