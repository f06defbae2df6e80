"""ONNX Runtime: the three graphs of a bundle as sessions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engines.contract import DecoderInput, Engine, EngineOptions, Floats, Ints
from engines.state import StateTensor

GRAPHS = {
    "vision": "onnx/vision_encoder.onnx",
    "embed": "onnx/embed_tokens.onnx",
    "decoder": "onnx/decoder_model_merged.onnx",
}
FIXED_INPUTS = 4
"""Inputs of the decoder before its state: embeddings, mask, positions, logits to keep."""


class OnnxRuntimeEngine(Engine):
    """Graphs under `folder`, on the execution provider of the CPU.

    A state is a tuple of OrtValues that stay where the runtime made them: a decode step copies
    none of it into Python.
    """

    name: ClassVar[str] = "onnxruntime"

    @classmethod
    def open(cls, folder: Path, options: EngineOptions = EngineOptions()) -> Self:  # noqa: B008
        return cls(folder, options.threads)

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        options = session_options(threads)
        self._sessions = {
            part: ort.InferenceSession(folder / path, options, providers=["CPUExecutionProvider"])
            for part, path in GRAPHS.items()
        }
        decoder = self._sessions["decoder"]
        self._state_names = [node.name for node in decoder.get_inputs()[FIXED_INPUTS:]]
        self._output_names = [node.name for node in decoder.get_outputs()]
        self.state = tuple(
            StateTensor(node.name, present, tuple(_size(n) for n in node.shape[1:]))
            for node, present in zip(
                decoder.get_inputs()[FIXED_INPUTS:], self._output_names[1:], strict=True
            )
        )

    def vision(self, pixels: NDArray[np.uint8]) -> Floats:
        return self._run("vision", {"pixels": np.ascontiguousarray(pixels)})

    def embed(self, input_ids: Ints) -> Floats:
        return self._run("embed", {"input_ids": input_ids})

    def decode(
        self, inputs: DecoderInput, state: tuple[ort.OrtValue, ...]
    ) -> tuple[Floats, tuple[ort.OrtValue, ...]]:
        # An OrtValue made from an array borrows its memory: the arrays must outlive the run.
        arrays = {
            "inputs_embeds": np.ascontiguousarray(inputs.inputs_embeds),
            "attention_mask": np.ascontiguousarray(inputs.attention_mask),
            "position_ids": np.ascontiguousarray(inputs.position_ids),
            "num_logits_to_keep": np.array(inputs.logits_to_keep, np.int64),
        }
        feeds = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        feeds.update(zip(self._state_names, state, strict=True))
        outputs = self._sessions["decoder"].run_with_ort_values(self._output_names, feeds)
        return outputs[0].numpy(), tuple(outputs[1:])

    def load_state(self, arrays: Sequence[NDArray[Any]]) -> tuple[ort.OrtValue, ...]:
        return tuple(_owned(array) for array in arrays)

    def dump_state(self, state: tuple[ort.OrtValue, ...]) -> tuple[NDArray[Any], ...]:
        return tuple(value.numpy() for value in state)

    def close(self) -> None:
        self._sessions.clear()

    def _run(self, part: str, feeds: dict[str, NDArray[Any]]) -> Floats:
        outputs: list[Floats] = self._sessions[part].run(None, feeds)
        return outputs[0]


def session_options(threads: int | None) -> ort.SessionOptions:
    """Options for several sessions in one process: a waiting session must not burn the cores
    that another one computes on, so idle threads sleep instead of spinning."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _owned(array: NDArray[Any]) -> ort.OrtValue:
    """A copy of `array` in memory of the runtime's own."""
    value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, "cpu")
    if array.size:
        value.update_inplace(np.ascontiguousarray(array))
    return value


def _size(dimension: int | str) -> int | None:
    return dimension if isinstance(dimension, int) else None
