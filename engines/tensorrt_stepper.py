"""The decode loop on a GPU: buffers of one size for all of its steps, replayed as a CUDA graph.

Keys and values lie in buffers that have room for every step to come. The places that are not taken
yet are masked, like padding, and the new token's place comes after all of them; after a step its
keys and values move to the first place that is free. So shapes and addresses never change. States
of a fixed size have two buffers each that are read and written in turn, hence two graphs.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from engines.contract import Floats, Ints, Stepper
from engines.positions import text_positions
from engines.tensorrt_plan import DECODE, FIXED_INPUTS, Sizes
from engines.tensorrt_program import Context, Program

if TYPE_CHECKING:
    from engines.tensorrt_engine import State, TensorRtEngine


PLACES = 256
"""Buffers for keys and values have a multiple of so many places."""


@dataclass(frozen=True)
class StepContexts:
    """What one stepper needs for itself: a captured graph goes on using its context's memory."""

    embed: Context
    decoder: Context

    @classmethod
    def make(cls, programs: Mapping[str, Program]) -> StepContexts:
        return cls(programs["embed"].context(DECODE), programs["decoder"].context(DECODE))


@dataclass(frozen=True)
class Turn:
    """The decoder's inputs and outputs in steps of one parity."""

    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]


def capacity_for(places: int, largest: int) -> int:
    """Places of the buffers for keys and values; few sizes, since kernels depend on them."""
    return min(-(-places // PLACES) * PLACES, largest)


def step_sizes(batch: int, capacity: int) -> Sizes:
    """Sizes of the dynamic axes in every step over `capacity` places."""
    return {
        "batch_size": batch,
        "sequence_length": 1,
        "past_sequence_length": capacity,
        "total_sequence_length": capacity + 1,
        "num_logits": 1,
    }


class TensorRtStepper(Stepper):
    """See the module. A new one may be made, and run, while others are in use."""

    def __init__(
        self,
        engine: TensorRtEngine,
        contexts: StepContexts,
        state: State,
        mask: Ints,
        positions: Ints,
        room: int,
    ) -> None:
        self._engine, self._contexts, self._left = engine, contexts, room
        weakref.finalize(self, engine.give_back, contexts).atexit = False
        batch, past = mask.shape
        self._past = past
        capacity = capacity_for(past + room, engine.record.max_length)
        self._sizes = step_sizes(batch, capacity)
        with engine.on_stream():
            device = engine.device
            self._ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
            self._embedded = engine.buffers("embed", self._sizes)
            self._slot = torch.tensor([past], device=device)
            self._positions = torch.tensor(text_positions(positions, 1), device=device)
            padded = np.pad(mask, ((0, 0), (0, capacity + 1 - past)))
            padded[:, -1] = 1
            self._mask = torch.tensor(padded, device=device)
            self._keep = torch.tensor(1)
            self._turns = self._make_turns(state)
            logits = self._turns[0].outputs["logits"]
            self._logits = torch.empty_like(logits[:, -1], dtype=torch.float32)
        self._host = torch.empty(self._logits.shape, pin_memory=device.type == "cuda")
        self._graphs: list[torch.cuda.CUDAGraph | None] = [None, None]
        self._count, self._capturable = 0, False

    def step(self, tokens: Ints) -> Floats:
        if not self._left:
            raise RuntimeError("a step beyond the room that the stepper was made for")
        self._left -= 1
        with self._engine.on_stream():
            self._ids.copy_(torch.from_numpy(tokens)[:, None])
            self._advance(self._count % 2)
            self._host.copy_(self._logits)
        self._count += 1
        logits: Floats = self._host.numpy()
        return logits

    def dump(self) -> tuple[NDArray[Any], ...]:
        # Even steps write where odd ones read.
        found, taken = self._turns[self._count % 2].inputs, self._past + self._count
        with self._engine.on_stream():
            tensors = (
                found[spec.past]
                if spec.length_axis is None
                else found[spec.past].narrow(spec.length_axis, 0, taken)
                for spec in self._engine.state
            )
            return tuple(tensor.to("cpu", torch.float32, copy=True).numpy() for tensor in tensors)

    def _advance(self, parity: int) -> None:
        """Enqueue one step. The first of each parity runs as it is: that prepares what a capture
        must not do, and shows whether there can be one."""
        if self._count == len(self._turns):
            self._capturable = self._may_capture()
        if not self._capturable:
            self._enqueue(self._turns[parity])
            return
        graph = self._graphs[parity]
        if graph is None:
            graph = self._graphs[parity] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._enqueue(self._turns[parity])
        graph.replay()

    def _may_capture(self) -> bool:
        return (
            self._engine.device.type == "cuda"
            and self._contexts.embed.capturable
            and self._contexts.decoder.capturable
        )

    def _enqueue(self, turn: Turn) -> None:
        self._contexts.embed.run({"input_ids": self._ids}, self._embedded)
        self._contexts.decoder.run(turn.inputs, turn.outputs)
        for spec in self._engine.state:
            if spec.length_axis is not None:
                axis, new = spec.length_axis, turn.outputs[spec.present]
                turn.inputs[spec.past].index_copy_(axis, self._slot, new.narrow(axis, -1, 1))
        self._mask.index_fill_(1, self._slot, 1)
        self._slot += 1
        self._positions += 1
        self._logits.copy_(turn.outputs["logits"][:, -1])

    def _make_turns(self, state: State) -> tuple[Turn, Turn]:
        outputs = self._engine.buffers("decoder", self._sizes)
        names = [spec.name for spec in self._engine.record.graphs["decoder"].inputs]
        fixed = (self._embedded["inputs_embeds"], self._mask, self._positions, self._keep)
        inputs = dict(zip(names[:FIXED_INPUTS], fixed, strict=True))
        even, odd = Turn(dict(inputs), dict(outputs)), Turn(dict(inputs), dict(outputs))
        for spec, tensor in zip(self._engine.state, state, strict=True):
            if spec.length_axis is None:
                first, second = tensor.clone(), torch.empty_like(tensor)
                even.inputs[spec.past], even.outputs[spec.present] = first, second
                odd.inputs[spec.past], odd.outputs[spec.present] = second, first
            else:
                cache = self._cache(tensor, spec.length_axis)
                even.inputs[spec.past] = odd.inputs[spec.past] = cache
        return even, odd

    def _cache(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        """`tensor` with room behind it. Zeros, since what is masked is still multiplied by 0."""
        shape = list(tensor.shape)
        past, shape[axis] = shape[axis], self._sizes["past_sequence_length"]
        cache = tensor.new_zeros(shape)
        cache.narrow(axis, 0, past).copy_(tensor)
        return cache
