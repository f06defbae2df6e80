"""ONNX Runtime: the three graphs of a bundle as sessions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engines.contract import DecoderInput, Engine, EngineOptions, Floats, Ints, Stepper
from engines.errors import MissingEngineError, OptionError
from engines.files import user_cache
from engines.manifest import MANIFEST_NAME, Manifest
from engines.names import choose
from engines.onnxruntime_lora import Adapter, check_fits
from engines.onnxruntime_providers import DEVICES, PROVIDERS, provider_list, split_device
from engines.onnxruntime_stepper import DTYPES, BoundStepper
from engines.state import StateTensor

GRAPHS = {
    "vision": "onnx/vision_encoder.onnx",
    "embed": "onnx/embed_tokens.onnx",
    "decoder": "onnx/decoder_model_merged.onnx",
}
FIXED_INPUTS = 4
"""Inputs of the decoder before its state: embeddings, mask, positions, logits to keep."""
QUANTIZED = b"MatMulNBits"
"""Occurs in a graph's file where its matrices are quantised."""

KERNELS_SINCE = (1, 32)
"""From then on GroupQueryAttention takes several rows of several queries after a past."""
KERNELS = b"GroupQueryAttention"
"""Occurs in a decoder's file that appends to keys and values in place; others return new ones."""

State = tuple[ort.OrtValue, ...]


class OnnxRuntimeEngine(Engine):
    """Graphs under `folder`, on one execution provider.

    A state is a tuple of OrtValues that stay where the runtime made them: a decode step copies
    none of it into Python.
    """

    name: ClassVar[str] = "onnxruntime"

    @classmethod
    def open(cls, folder: Path, options: EngineOptions = EngineOptions()) -> Self:  # noqa: B008
        return cls(folder, options)

    def __init__(self, folder: Path, options: EngineOptions = EngineOptions()) -> None:  # noqa: B008
        provider = chosen_provider(options)
        self._in_place = KERNELS in (folder / GRAPHS["decoder"]).read_bytes()
        if self._in_place:
            _check_kernels(provider)
        self.device = "cpu" if provider == "cpu" else "cuda"
        self.device_id = split_device(options.device or "cpu")[1]
        if provider != "cpu":
            _load_cuda()
        providers = _providers(folder, provider, self.device_id)
        self._sessions = {
            part: _session(folder / path, part, providers, options.threads)
            for part, path in GRAPHS.items()
        }
        decoder = self._sessions["decoder"]
        inputs = decoder.get_inputs()
        self._state_names = [node.name for node in inputs[FIXED_INPUTS:]]
        self._output_names = [node.name for node in decoder.get_outputs()]
        self.lora_inputs: Mapping[str, Sequence[int | str]] = {
            node.name: node.shape for node in decoder.get_overridable_initializers()
        }
        self._adapter: dict[str, ort.OrtValue] = {}
        self._dtype = DTYPES[inputs[0].type]
        self._state_dtypes = [DTYPES[node.type] for node in inputs[FIXED_INPUTS:]]
        self.state = tuple(
            StateTensor(node.name, present, tuple(_size(n) for n in node.shape[1:]))
            for node, present in zip(inputs[FIXED_INPUTS:], self._output_names[1:], strict=True)
        )

    def vision(self, pixels: NDArray[np.uint8]) -> Floats:
        return self._run("vision", "pixels", np.ascontiguousarray(pixels))

    def embed(self, input_ids: Ints) -> Floats:
        return self._run("embed", "input_ids", np.ascontiguousarray(input_ids))

    def decode(self, inputs: DecoderInput, state: State) -> tuple[Floats, State]:
        binding = self._sessions["decoder"].io_binding()
        # A binding borrows the memory of arrays in it: they must outlive the run.
        arrays = {
            "inputs_embeds": np.ascontiguousarray(inputs.inputs_embeds, self._dtype),
            "attention_mask": np.ascontiguousarray(inputs.attention_mask),
            "position_ids": np.ascontiguousarray(inputs.position_ids),
            "num_logits_to_keep": np.array(inputs.logits_to_keep, np.int64),
        }
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(self._state_names, state, strict=True):
            binding.bind_ortvalue_input(name, value)
        self.bind_adapter(binding)
        binding.bind_output(self._output_names[0], "cpu")
        for name in self._output_names[1:]:
            binding.bind_output(name, self.device, self.device_id)
        self._sessions["decoder"].run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        return logits.numpy().astype(np.float32, copy=False), tuple(present)

    def stepper(self, state: State, mask: Ints, positions: Ints, room: int) -> Stepper:
        return BoundStepper(self, state, mask, positions, room, self._in_place)

    def load_state(self, arrays: Sequence[NDArray[Any]]) -> State:
        return tuple(
            self.value(array.astype(dtype, copy=False))
            for array, dtype in zip(arrays, self._state_dtypes, strict=True)
        )

    def dump_state(self, state: State) -> tuple[NDArray[Any], ...]:
        return tuple(value.numpy().astype(np.float32, copy=False) for value in state)

    @contextmanager
    def adapted(self, adapter: Adapter) -> Iterator[None]:
        """Whatever is decoded or started inside computes with a LoRA; see `onnxruntime_lora`.

        Raises:
            DataError: the decoder's graph has no room for one of its tensors.
        """
        check_fits(adapter, self.lora_inputs)
        before, self._adapter = self._adapter, dict(adapter)
        try:
            yield
        finally:
            self._adapter = before

    def bind_adapter(self, binding: ort.IOBinding) -> Adapter:
        """Bind the adapter in use, which must outlive the binding; without one the graph has its
        own zeros."""
        for name, value in self._adapter.items():
            binding.bind_ortvalue_input(name, value)
        return self._adapter

    def close(self) -> None:
        self._sessions.clear()

    def value(self, array: NDArray[Any]) -> ort.OrtValue:
        """A copy of `array` in memory of the runtime's own, on the engine's device."""
        value = self.empty(array.shape, array.dtype)
        if array.size:
            value.update_inplace(np.ascontiguousarray(array))
        return value

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ort.OrtValue:
        """Memory of the runtime's own, on the engine's device, with nothing written to it."""
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self.device, self.device_id)

    def session(self, part: str) -> ort.InferenceSession:
        """The session of "vision", "embed" or "decoder"."""
        return self._sessions[part]

    def _run(self, part: str, name: str, array: NDArray[Any]) -> Floats:
        outputs: list[NDArray[Any]] = self._sessions[part].run(None, {name: array})
        return outputs[0].astype(np.float32, copy=False)


def chosen_provider(options: EngineOptions) -> str:
    """The provider's short name that `options` ask for.

    Raises:
        OptionError: device or provider is not known, or they contradict each other.
        MissingEngineError: the installed onnxruntime does not have it.
    """
    kind, _ = split_device(options.device or "cpu")
    device = choose("device of onnxruntime", kind, DEVICES)
    name = options.provider or DEVICES[device]
    choose("provider", name, PROVIDERS)
    if options.device and (name == "cpu") != (device == "cpu"):
        raise OptionError(
            got=f"provider '{name}' on device '{device}'",
            expected="a provider of that device",
            fix="leave one of the two out",
        )
    if PROVIDERS[name] not in ort.get_available_providers():
        raise _no_provider(name, "which was built without it")
    return name


def _check_kernels(provider: str) -> None:
    """MissingEngineError or OptionError if kernels for whole operations cannot run here."""
    if provider != "cpu":
        raise OptionError(
            got=f"provider '{provider}' for a bundle that was built for the CPU's kernels",
            expected="one that was built for it",
            fix=f"build it with art-export build --provider {provider}",
        )
    if tuple(map(int, ort.__version__.split(".")[:2])) < KERNELS_SINCE:
        raise MissingEngineError(
            got=f"a bundle for the CPU's kernels, and onnxruntime {ort.__version__}",
            expected="onnxruntime 1.32 or newer, or a bundle of standard operators",
            fix="pip install 'onnxruntime>=1.32', or build with art-export build --provider cuda",
        )


def _load_cuda() -> None:
    """Load CUDA's libraries from PyTorch's packages, where neither the system's own path nor an
    import of PyTorch has them."""
    with redirect_stdout(sys.stderr):
        ort.preload_dlls()


def _no_provider(name: str, why: str) -> MissingEngineError:
    known = {full: short for short, full in PROVIDERS.items()}
    here = [known[full] for full in ort.get_available_providers() if full in known]
    return MissingEngineError(
        got=f"provider '{name}' with onnxruntime {ort.__version__}, {why}",
        expected=f"one of: {', '.join(here)}",
        fix="pip install 'art-export[gpu]' in an environment without the package onnxruntime",
    )


def _providers(folder: Path, provider: str, device: int) -> list[tuple[str, dict[str, str]]]:
    """As `provider_list`, for the bundle in `folder`."""
    cache, path = user_cache() / "onnxruntime-tensorrt", folder / MANIFEST_NAME
    if provider != "tensorrt" or not path.is_file():
        return provider_list(provider, device, cache, None, half=False)
    manifest = Manifest.from_json(path.read_bytes(), str(path))
    cache.mkdir(parents=True, exist_ok=True)
    return provider_list(
        provider, device, cache, manifest.graph_sha256, manifest.precision == "fp16"
    )


def _session(
    path: Path, part: str, providers: list[tuple[str, dict[str, str]]], threads: int | None
) -> ort.InferenceSession:
    """One graph; `get_providers` says afterwards whether the first provider could be loaded."""
    options = session_options(part, threads)
    if QUANTIZED not in path.read_bytes():
        # The kernels read fp32 matrices as they lie in the file, which is mapped into memory: a
        # packed copy would double them and is no faster. Quantised ones are slow unless packed.
        options.add_session_config_entry("session.disable_prepacking", "1")
    wanted, _ = providers[0]
    if wanted != PROVIDERS["cpu"]:
        # The arena doubles whenever it is full, which suits keys and values that grow with every
        # step and would waste as much as the weights take.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    session = ort.InferenceSession(path, options, providers=providers)
    if wanted not in session.get_providers():
        (name,) = (short for short, full in PROVIDERS.items() if full == wanted)
        raise _no_provider(name, "which could not load it (its log above says why)")
    return session


def session_options(part: str, threads: int | None) -> ort.SessionOptions:
    """Options for several sessions in one process: a waiting session must not burn the cores
    that another one computes on. The decoder's threads spin between the nodes of one run, where
    falling asleep would cost more than the work, and sleep as soon as the run ends."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    spinning = "1" if part == "decoder" else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Shares of a matrix are dealt out in ever smaller pieces, so that no core waits for the other.
    options.add_session_config_entry("session.dynamic_block_base", "4")
    # Shapes change with every step; a plan of memory kept for each would only grow.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _size(dimension: int | str) -> int | None:
    return dimension if isinstance(dimension, int) else None
