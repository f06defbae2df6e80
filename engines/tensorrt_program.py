"""One plan, loaded, and the contexts that run it on buffers of PyTorch."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from engines.errors import BundleError, OutputError
from engines.files import write_bytes
from engines.tensorrt_library import TITLES, cache_path, capability_of, make_logger
from engines.tensorrt_plan import DECODE, GraphRecord

Tensors = Mapping[str, torch.Tensor]


class Context(Protocol):
    """Runs one graph; not for two threads or two streams at a time."""

    @property
    def capturable(self) -> bool:
        """Whether a run with the shapes of the last one may be captured into a CUDA graph."""

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        """Enqueue a run on the current stream that reads `inputs` and fills `outputs`.

        All are contiguous, of the dtypes and shapes that the plan's record tells, and must live
        until the stream has got there. Scalars are read from the CPU, all others from the GPU.
        """


class Program(Protocol):
    """A loaded graph."""

    def context(self, profile: int) -> Context:
        """A new context for shapes within an optimisation profile."""

    def close(self) -> None:
        """Store what saves time when it is loaded again, and release the rest."""


class PlanProgram:
    """A plan on a GPU, by TensorRT or TensorRT-RTX.

    TensorRT-RTX compiles its kernels where they run; they are kept in the user's cache.
    """

    def __init__(
        self, engine: str, library: Any, folder: Path, graph: GraphRecord, device: torch.device
    ) -> None:
        self._library, self._device, self._graph = library, device, graph
        path = folder / graph.file
        self._logger = make_logger(library)
        # The runtime must outlive what it has loaded.
        self._runtime = library.Runtime(self._logger)
        with torch.cuda.device(device), path.open("rb") as file:
            # Mapped: a plan has all the weights, which the GPU holds from here on.
            plan = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._plan = self._runtime.deserialize_cuda_engine(plan)
        if self._plan is None:
            errors = "; ".join(self._logger.errors)
            raise BundleError(
                got=f"{path}, which {TITLES[engine]} does not load: {errors}",
                expected="a plan for this GPU, driver and version",
                fix=f"build the bundle again with --engine {engine}",
            )
        name = f"{library.__version__}-{capability_of(device)}-{path.stem}.kernels"
        self._cache_path = cache_path(name)
        self._cache: Any = None

    def context(self, profile: int) -> PlanContext:
        with torch.cuda.device(self._device):
            managed = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
            if hasattr(self._library, "IRuntimeCache"):
                config = self._runtime_config(profile)
                config.set_execution_context_allocation_strategy(managed)
                context = self._plan.create_execution_context(config)
            else:
                context = self._plan.create_execution_context(managed)
            stream = torch.cuda.current_stream()
            if context is None or not context.set_optimization_profile_async(
                profile, stream.cuda_stream
            ):
                raise RuntimeError("; ".join(self._logger.errors))
            stream.synchronize()
        return PlanContext(context, self._graph, self._logger, self._device)

    def close(self) -> None:
        if self._cache is not None:
            # Without the cache, the next start is slower, and nothing else.
            with suppress(OutputError):
                write_bytes(self._cache_path, bytes(self._cache.serialize()))
        self._cache = self._plan = None

    def _runtime_config(self, profile: int) -> Any:
        """Prompts have many lengths, for which kernels are compiled while others already run. The
        shapes of decoding are few and stay, and a captured graph would keep the slow kernels."""
        config = self._plan.create_runtime_config()
        strategies = self._library.DynamicShapesKernelSpecializationStrategy
        strategy = strategies.EAGER if profile == DECODE else strategies.LAZY
        config.dynamic_shapes_kernel_specialization_strategy = strategy
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._cache_path.is_file():
                self._cache.deserialize(self._cache_path.read_bytes())
        config.set_runtime_cache(self._cache)
        return config


class PlanContext:
    """An execution context of a plan; see `Context`.

    Its memory for activations is PyTorch's, as much as the largest shapes so far needed: what the
    profile allows may be many times that.
    """

    def __init__(self, context: Any, graph: GraphRecord, logger: Any, device: torch.device) -> None:
        self._context, self._graph, self._logger = context, graph, logger
        # Empty tensors have no address, and the library wants one.
        self._nothing = torch.zeros(1, device=device)
        self._memory = torch.empty(0, dtype=torch.uint8, device=device)

    @property
    def capturable(self) -> bool:
        ask = getattr(self._context, "is_stream_capturable", None)
        if ask is None:
            return not self._graph.control_flow
        return bool(ask(torch.cuda.current_stream().cuda_stream))

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        for name, tensor in inputs.items():
            self._bind(name, tensor)
            if tensor.ndim:
                self._checked(self._context.set_input_shape(name, tuple(tensor.shape)))
        for name, tensor in outputs.items():
            self._bind(name, tensor)
        self._make_room()
        stream = torch.cuda.current_stream().cuda_stream
        self._checked(self._context.execute_async_v3(stream))

    def _make_room(self) -> None:
        needed = self._context.update_device_memory_size_for_shapes()
        if needed > self._memory.numel():
            self._memory = torch.empty(needed, dtype=torch.uint8, device=self._memory.device)
        self._context.set_device_memory(self._memory.data_ptr(), self._memory.numel())

    def _bind(self, name: str, tensor: torch.Tensor) -> None:
        address = tensor.data_ptr() or self._nothing.data_ptr()
        self._checked(self._context.set_tensor_address(name, address))

    def _checked(self, done: bool) -> None:
        if not done:
            raise RuntimeError("; ".join(self._logger.errors[-3:]))
