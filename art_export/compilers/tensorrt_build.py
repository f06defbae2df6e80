"""One graph through TensorRT's parser and builder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from engines.errors import CheckFailed, OutputError
from engines.files import write_bytes
from engines.tensorrt_library import TITLES, cache_path, make_logger
from engines.tensorrt_plan import GraphRecord, Range, TensorSpec

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "UINT8": "uint8",
}
"""The library's names -> torch's."""
CONTROL_FLOW = {"CONDITION", "TRIP_LIMIT"}
"""Types of layers that every branch and every loop has."""
VALUES = {"num_logits_to_keep": "num_logits"}
"""Inputs whose value, and not shape, a profile bounds -> the symbol that it belongs to."""

Profile = Mapping[str, Range]


@dataclass(frozen=True)
class Target:
    """What plans are built for.

    capabilities: such as "sm89"; none leaves it to the library. device: the GPU that is here, if it
    is what they are built for. ahead: no GPU may be asked.
    """

    engine: str
    capabilities: tuple[str, ...]
    device: str | None
    ahead: bool
    refittable: bool


def build_plan(
    library: Any,
    target: Target,
    part: str,
    graph: ir.Model,
    profiles: Sequence[Profile],
    folder: Path,
) -> GraphRecord:
    """Write `folder`/<part>.plan and return what it takes and gives.

    Raises:
        CheckFailed: the library does not take the graph.
    """
    logger = make_logger(library)
    builder = library.Builder(logger)
    typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = library.OnnxParser(network, logger)
    title = f"{TITLES[target.engine]} {library.__version__}"
    with _on_disk(graph, folder) as path:
        if not parser.parse_from_file(str(path)):
            raise _refused(title, part, _parser_errors(parser))
        inputs = _specs(graph.graph.inputs, _network_inputs(network), title, part)
        outputs = _specs(graph.graph.outputs, _network_outputs(network), title, part)
        config = _config(library, builder, target)
        for profile in profiles:
            config.add_optimization_profile(_profile(builder, network, inputs, profile))
        with _timing_cache(library, target, config):
            plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refused(title, part, logger.errors)
    file = f"{part}.plan"
    with (folder / file).open("wb") as out:
        out.write(plan)
    return GraphRecord(
        file=file,
        layers=network.num_layers,
        control_flow=not CONTROL_FLOW.isdisjoint(_layer_types(network)),
        inputs=inputs,
        outputs=outputs,
        profiles=tuple(profiles),
    )


@contextmanager
def _on_disk(graph: ir.Model, folder: Path) -> Iterator[Path]:
    """The graph as files for as long as the parser may read them; weights beside it, since one
    file of protobuf holds 2 GB at most."""
    with TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "graph.onnx"
        ir.save(graph, path, external_data="graph.weights")
        yield path


def _config(library: Any, builder: Any, target: Target) -> Any:
    config = builder.create_builder_config()
    flags = library.BuilderFlag
    # fp32 means fp32: tensor cores would round its products to 10 bits.
    config.clear_flag(flags.TF32)
    if target.refittable:
        config.set_flag(flags.REFIT)
    if hasattr(flags, "REQUIRE_USER_ALLOCATION"):
        # Memory that the library took for itself while running could not be captured.
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)
    if target.ahead and target.capabilities:
        config.num_compute_capabilities = len(target.capabilities)
        for index, name in enumerate(target.capabilities):
            capability = getattr(library.ComputeCapability, name.upper())
            config.set_compute_capability(capability, index)
    return config


def _profile(builder: Any, network: Any, specs: Iterable[TensorSpec], sizes: Profile) -> Any:
    profile = builder.create_optimization_profile()
    bounds = [{symbol: each[n] for symbol, each in sizes.items()} for n in range(3)]
    for index, spec in enumerate(specs):
        if network.get_input(index).is_shape_tensor:
            symbol = VALUES[spec.name]
            profile.set_shape_input(spec.name, *([bound[symbol]] for bound in bounds))
        else:
            profile.set_shape(spec.name, *(spec.sized(bound) for bound in bounds))
    return profile


@contextmanager
def _timing_cache(library: Any, target: Target, config: Any) -> Iterator[None]:
    """Measurements of kernels, kept from build to build. TensorRT-RTX makes none: it has no effect
    there and would ask for a GPU."""
    if target.engine != "tensorrt":
        yield
        return
    path = cache_path(f"{library.__version__}-{target.capabilities[0]}.timing")
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    # Of another GPU or driver it is refused, and replaced by an empty one.
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    # If it cannot be kept, the next build takes longer, and nothing else.
    with suppress(OutputError):
        write_bytes(path, bytes(cache.serialize()))


def _specs(
    values: Iterable[ir.Value], tensors: Sequence[Any], title: str, part: str
) -> tuple[TensorSpec, ...]:
    """Names and shapes as exported, dtypes as parsed; both must agree on what is fixed."""
    specs = tuple(
        TensorSpec(value.name or "", DTYPES[tensor.dtype.name], tuple(_symbols(value)))
        for value, tensor in zip(values, tensors, strict=True)
    )
    for spec, tensor in zip(specs, tensors, strict=True):
        shape = tuple(n if isinstance(n, int) else -1 for n in spec.shape)
        if (tensor.name, tuple(tensor.shape)) != (spec.name, shape):
            what = f"{spec.name} {shape} became {tensor.name} {tuple(tensor.shape)}"
            raise _refused(title, part, [what])
    return specs


def _symbols(value: ir.Value) -> Iterator[int | str]:
    for dimension in value.shape or ():
        yield dimension if isinstance(dimension, int) else str(dimension.value)


def _network_inputs(network: Any) -> list[Any]:
    return [network.get_input(n) for n in range(network.num_inputs)]


def _network_outputs(network: Any) -> list[Any]:
    return [network.get_output(n) for n in range(network.num_outputs)]


def _layer_types(network: Any) -> set[str]:
    return {network.get_layer(n).type.name for n in range(network.num_layers)}


def _parser_errors(parser: Any) -> list[str]:
    found = [parser.get_error(n) for n in range(parser.num_errors)]
    return [f"{each.node_operator()} '{each.node_name()}': {each.desc()}" for each in found]


def _refused(title: str, part: str, errors: Sequence[str]) -> CheckFailed:
    reasons = "; ".join(dict.fromkeys(errors)) or "no reason was given"
    return CheckFailed(f"{title} does not build the {part} graph: {reasons}")
