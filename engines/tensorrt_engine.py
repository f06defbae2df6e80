"""TensorRT and TensorRT-RTX: the three graphs of a bundle as plans on an NVIDIA GPU."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from engines.contract import DecoderInput, Engine, EngineOptions, Floats, Ints
from engines.errors import OptionError, PromptError
from engines.tensorrt_library import capability_of, cuda_device, load_library, no_cuda
from engines.tensorrt_plan import (
    FIXED_INPUTS,
    PREFILL,
    PlanRecord,
    Sizes,
    check_target,
    plans_folder,
    read_record,
)
from engines.tensorrt_program import Context, PlanProgram, Program
from engines.tensorrt_stepper import StepContexts, TensorRtStepper

State = tuple[torch.Tensor, ...]


_LOG = logging.getLogger(__name__)


class TensorRtEngine(Engine):
    """Plans on one GPU. A state is a tuple of tensors on it, in the dtypes of the plans.

    Prompts longer than the plans' largest pass run in pieces, so that memory for activations does
    not grow with the longest prompt.
    """

    name: ClassVar[str] = "tensorrt"

    def __init__(
        self, record: PlanRecord, programs: Mapping[str, Program], device: torch.device
    ) -> None:
        self.record, self.device = record, device
        self.max_batch = record.max_batch
        self._programs = programs
        self.state = record.state
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        with self.on_stream():
            self._contexts: dict[str, Context] = {
                part: program.context(PREFILL) for part, program in programs.items()
            }
        self._spare: list[StepContexts] = []

    @classmethod
    def open(cls, folder: Path, options: EngineOptions = EngineOptions()) -> Self:  # noqa: B008
        library = load_library(cls.name)
        device = cuda_device(cls.name, options.device)
        plans = plans_folder(folder, cls.name)
        record = read_record(plans)
        gpu = torch.cuda.get_device_name(device)
        warning = check_target(record, library.__version__, capability_of(device), gpu)
        if warning is not None:
            _LOG.warning(warning)
        programs = {
            part: PlanProgram(cls.name, library, plans, graph, device)
            for part, graph in record.graphs.items()
        }
        return cls(record, programs, device)

    @classmethod
    def unavailable(cls) -> str | None:
        return no_cuda()

    def vision(self, pixels: NDArray[np.uint8]) -> Floats:
        rows = self.record.max_batch
        features = []
        for start in range(0, len(pixels), rows):
            piece = self._tensor(pixels[start : start + rows], "vision", 0)
            found = self._run("vision", {"pixels": piece}, {"batch_size": len(piece)})
            features.append(found["image_features"])
        return np.concatenate(features)

    def embed(self, input_ids: Ints) -> Floats:
        ids = self._tensor(input_ids, "embed", 0)
        self._check_fits(*ids.shape)
        sizes = {"batch_size": ids.shape[0], "sequence_length": ids.shape[1]}
        return self._run("embed", {"input_ids": ids}, sizes)["inputs_embeds"]

    def decode(self, inputs: DecoderInput, state: State) -> tuple[Floats, State]:
        length = inputs.inputs_embeds.shape[1]
        past = inputs.attention_mask.shape[1] - length
        self._check_fits(len(inputs.inputs_embeds), past + length)
        wanted = min(inputs.logits_to_keep or length, length)
        kept: list[Floats] = []
        for start in range(0, length, self.record.chunk):
            stop = min(start + self.record.chunk, length)
            keep = stop - max(start, length - wanted)
            logits, state = self._piece(inputs, past, slice(start, stop), max(keep, 1), state)
            if keep > 0:
                kept.append(logits)
        return np.concatenate(kept, axis=1), state

    def load_state(self, arrays: Sequence[NDArray[Any]]) -> State:
        return tuple(
            self._tensor(array, "decoder", FIXED_INPUTS + index)
            for index, array in enumerate(arrays)
        )

    def dump_state(self, state: State) -> tuple[NDArray[Any], ...]:
        with self.on_stream():
            return tuple(_array(tensor) for tensor in state)

    def stepper(self, state: State, mask: Ints, positions: Ints, room: int) -> TensorRtStepper:
        self._check_fits(mask.shape[0], mask.shape[1] + room)
        with self.on_stream():
            contexts = self._spare.pop() if self._spare else StepContexts.make(self._programs)
        return TensorRtStepper(self, contexts, state, mask, positions, room)

    def give_back(self, contexts: StepContexts) -> None:
        """Take the contexts of a stepper that is no longer used."""
        if self._programs:
            self._spare.append(contexts)

    def close(self) -> None:
        self._contexts.clear()
        self._spare.clear()
        for program in self._programs.values():
            program.close()
        self._programs = {}

    def on_stream(self) -> AbstractContextManager[Any]:
        """Whatever is enqueued inside runs on this engine's stream."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def buffers(self, part: str, sizes: Sizes) -> dict[str, torch.Tensor]:
        """Buffers for the outputs of a graph."""
        with self.on_stream():
            return {
                spec.name: torch.empty(
                    spec.sized(sizes), dtype=getattr(torch, spec.dtype), device=self.device
                )
                for spec in self.record.graphs[part].outputs
            }

    def _piece(
        self, inputs: DecoderInput, past: int, piece: slice, keep: int, state: State
    ) -> tuple[Floats, State]:
        """One pass over some positions -> their last `keep` logits and the new state."""
        arrays: tuple[NDArray[Any], ...] = (
            inputs.inputs_embeds[:, piece],
            inputs.attention_mask[:, : past + piece.stop],
            inputs.position_ids[:, :, piece],
        )
        names = [spec.name for spec in self.record.graphs["decoder"].inputs]
        feeds = [self._tensor(array, "decoder", index) for index, array in enumerate(arrays)]
        feeds += [torch.tensor(keep), *state]
        sizes = {
            "batch_size": feeds[0].shape[0],
            "sequence_length": feeds[0].shape[1],
            "past_sequence_length": past + piece.start,
            "total_sequence_length": past + piece.stop,
            "num_logits": keep,
        }
        results = self.buffers("decoder", sizes)
        with self.on_stream():
            self._contexts["decoder"].run(dict(zip(names, feeds, strict=True)), results)
            logits, *present = results.values()
            return _array(logits), tuple(present)

    def _run(self, part: str, feeds: Mapping[str, torch.Tensor], sizes: Sizes) -> dict[str, Floats]:
        results = self.buffers(part, sizes)
        with self.on_stream():
            self._contexts[part].run(feeds, results)
            return {name: _array(tensor) for name, tensor in results.items()}

    def _tensor(self, array: NDArray[Any], part: str, index: int) -> torch.Tensor:
        """A copy of `array` on the device, as the input `index` of a graph wants it."""
        dtype = getattr(torch, self.record.graphs[part].inputs[index].dtype)
        with self.on_stream():
            return torch.tensor(np.ascontiguousarray(array), dtype=dtype, device=self.device)

    def _check_fits(self, batch: int, length: int) -> None:
        record = self.record
        if batch > record.max_batch:
            raise OptionError(
                got=f"a batch of {batch} rows",
                expected=f"at most {record.max_batch}, which the plans were built for",
                fix=f"use smaller batches, or build with --max-batch {batch}",
            )
        if length > record.max_length:
            raise PromptError(
                got=f"a sequence of {length} tokens",
                expected=f"at most {record.max_length}, which the plans were built for",
                fix=f"shorten the prompt, or build with --max-length {length}",
            )


class TensorRtRtxEngine(TensorRtEngine):
    """The same on TensorRT-RTX, whose plans fit several generations of GPUs."""

    name: ClassVar[str] = "tensorrt-rtx"


def _array(tensor: torch.Tensor) -> Floats:
    """A copy on the CPU in fp32; it waits for what the current stream still has to do."""
    array: Floats = tensor.to("cpu", torch.float32, copy=True).numpy()
    return array
