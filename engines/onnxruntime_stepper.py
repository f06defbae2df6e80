"""The decode loop of ONNX Runtime: every buffer is made before the first step.

Kernels append to keys and values and overwrite states of a fixed size where they lie: past and
present are one buffer. Graphs of standard operators return new ones, the past copied before what is
new, so they read one buffer and write another in turn. Embeddings and state stay on the engine's
device either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engines.contract import Floats, Ints, Stepper
from engines.state import StateTensor

if TYPE_CHECKING:
    from engines.onnxruntime_engine import OnnxRuntimeEngine, State

DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
}


class BoundStepper(Stepper):
    """A step writes into buffers that are there already, and runs two graphs.

    in_place: the decoder's graph may write present states over past ones.
    """

    def __init__(
        self,
        engine: OnnxRuntimeEngine,
        state: State,
        mask: Ints,
        positions: Ints,
        room: int,
        in_place: bool,
    ) -> None:
        self._embed, self._decoder = engine.session("embed"), engine.session("decoder")
        self._padding, self._length, self._room = mask, mask.shape[1], room
        self._tokens = np.zeros((len(mask), 1), np.int64)
        self._positions = np.empty((3, len(mask), 1), np.int64)
        self._positions[:] = positions[:, None]
        self._masks = np.ones(len(mask) * (self._length + room), np.int64)
        self._one = np.array(1, np.int64)
        self._embedding, self._decoding = self._embed.io_binding(), self._decoder.io_binding()
        # A binding copies what it is given to where the graph runs, unless it lies there.
        self._at_home = engine.device == "cpu"
        self._bind(engine)
        place = _InPlace if in_place else _InTurn
        self._state = tuple(
            place(engine, self._decoding, spec, past, room)
            for spec, past in zip(engine.state, state, strict=True)
        )

    def step(self, tokens: Ints) -> Floats:
        if not self._room:
            raise ValueError("the stepper has made all the steps that it was made for")
        self._room -= 1
        self._tokens[:, 0] = tokens
        for place in self._state:
            place.next_step(self._length)
        self._lengthen_mask()
        if not self._at_home:
            self._bind_small()
        self._embed.run_with_iobinding(self._embedding)
        self._decoder.run_with_iobinding(self._decoding)
        self._positions += 1
        if self._wide is not self._logits:
            self._wide[:] = self._logits
        return self._wide

    def dump(self) -> tuple[NDArray[Any], ...]:
        return tuple(np.array(place.array(self._length), np.float32) for place in self._state)

    def _bind(self, engine: OnnxRuntimeEngine) -> None:
        """What every step reads and writes at the same place."""
        batch = len(self._tokens)
        (embeds,), (logits, *_) = self._embed.get_outputs(), self._decoder.get_outputs()
        hidden = engine.empty((batch, 1, embeds.shape[2]), DTYPES[embeds.type])
        self._logits: NDArray[Any] = np.empty((batch, int(logits.shape[2])), DTYPES[logits.type])
        self._wide: Floats = self._logits.astype(np.float32, copy=False)
        self._embedding.bind_ortvalue_output(embeds.name, hidden)
        self._decoding.bind_ortvalue_input("inputs_embeds", hidden)
        self._decoding.bind_cpu_input("num_logits_to_keep", self._one)
        self._adapter = engine.bind_adapter(self._decoding)
        _bind_array(self._decoding.bind_output, logits.name, self._logits[:, None])
        self._bind_small()

    def _bind_small(self) -> None:
        self._embedding.bind_cpu_input("input_ids", self._tokens)
        self._decoding.bind_cpu_input("position_ids", self._positions)
        self._embedding.synchronize_inputs()
        self._decoding.synchronize_inputs()

    def _lengthen_mask(self) -> None:
        """The mask's shape is what tells the graph how much of its buffers is past."""
        self._length += 1
        batch, past = self._padding.shape
        mask = self._masks[: batch * self._length].reshape(batch, self._length)
        mask[:, past:] = 1
        mask[:, :past] = self._padding
        _bind_array(self._decoding.bind_input, "attention_mask", mask)


class _InPlace:
    """One tensor of the state: a buffer, with room for all steps, as both past and present."""

    def __init__(
        self,
        engine: OnnxRuntimeEngine,
        binding: ort.IOBinding,
        spec: StateTensor,
        past: ort.OrtValue,
        room: int,
    ) -> None:
        array, self._axis = past.numpy(), spec.length_axis
        if self._axis is not None:
            array = np.pad(array, [(0, room * (n == self._axis)) for n in range(array.ndim)])
        self._value = engine.value(array)
        binding.bind_ortvalue_input(spec.past, self._value)
        binding.bind_ortvalue_output(spec.present, self._value)

    def next_step(self, past: int) -> None:
        """Every step reads and writes the same buffer."""

    def array(self, length: int) -> NDArray[Any]:
        """What `length` tokens left."""
        whole = self._value.numpy()
        taken = tuple(slice(length if n == self._axis else None) for n in range(whole.ndim))
        found: NDArray[Any] = whole[taken]
        return found


class _InTurn:
    """One tensor of the state: two buffers, flat since shapes grow, each with room for all steps.
    A step reads the one and writes the other, the next step the other way round."""

    def __init__(
        self,
        engine: OnnxRuntimeEngine,
        binding: ort.IOBinding,
        spec: StateTensor,
        past: ort.OrtValue,
        room: int,
    ) -> None:
        self._spec, self._binding, array = spec, binding, past.numpy()
        self._batch, self._dtype = len(array), array.dtype
        self._device = engine.device, engine.device_id
        axis = spec.length_axis
        size = math.prod(self._shape(room + (0 if axis is None else array.shape[axis])))
        flat = np.zeros(size, array.dtype)
        flat[: array.size] = array.ravel()
        self._last, self._next = engine.value(flat), engine.empty((size,), array.dtype)

    def next_step(self, past: int) -> None:
        """Bind what the next step, after `past` tokens, reads and writes."""
        self._bind(self._binding.bind_input, self._spec.past, past, self._last)
        self._bind(self._binding.bind_output, self._spec.present, past + 1, self._next)
        self._last, self._next = self._next, self._last

    def array(self, length: int) -> NDArray[Any]:
        """What `length` tokens left."""
        shape = self._shape(length)
        found: NDArray[Any] = self._last.numpy()[: math.prod(shape)].reshape(shape)
        return found

    def _bind(self, bind: Callable[..., None], name: str, length: int, value: ort.OrtValue) -> None:
        bind(name, *self._device, self._dtype.type, self._shape(length), value.data_ptr())

    def _shape(self, length: int) -> tuple[int, ...]:
        return (self._batch, *(length if size is None else size for size in self._spec.shape))


def _bind_array(bind: Callable[..., None], name: str, array: NDArray[Any]) -> None:
    """Bind the memory of an array of the caller's, which must outlive the binding."""
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
