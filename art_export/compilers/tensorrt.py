"""TensorRT and TensorRT-RTX: one plan a graph, and a record of what they were built for.

TensorRT builds for the GPU that it runs on. TensorRT-RTX builds on any machine, for the GPUs that
are named or for a range of them; refittable plans alone need a GPU there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from art_export.compilers import CompileOptions, Report
from art_export.compilers.tensorrt_build import Target, build_plan
from art_export.compilers.tensorrt_delta_rule import inline
from art_export.compilers.tensorrt_quantize import BITS, quantize_weights
from engines.errors import OptionError
from engines.names import choose
from engines.tensorrt_library import capability_of, cuda_device, load_library
from engines.tensorrt_plan import GraphRecord, PlanRecord, Range, plans_folder

FORMS = {None: "portable"}
PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "fp16", "int4": "fp16"}
PARTS = ("vision", "embed", "decoder")
LENGTH = 4096
"""Profiles and buffers are made for so many tokens unless --max-length says otherwise."""
STAGES = PARTS
CHUNK = 512
"""Most tokens of a row in one pass: memory for activations grows with it, not with the prompt."""
TURING, ON_TURING = "sm75", "fp16"
"""TensorRT-RTX has no other precision for matrix products on GPUs of compute capability 7.5."""


def compile_graphs(
    graphs: Mapping[str, ir.Model], folder: Path, options: CompileOptions, report: Report
) -> Mapping[str, str]:
    """Write `engines/<engine>/*.plan` and their record. The graphs are changed in place.

    Raises:
        MissingEngineError: the library, or a GPU that this build needs, is not here.
        OptionError: a compute capability is not known, or does not go with the other options.
        CheckFailed: the library does not take a graph; the message has its reasons.
    """
    library = load_library(options.engine)
    target = find_target(library, options)
    plans = plans_folder(folder, options.engine)
    plans.mkdir(parents=True)
    records: dict[str, GraphRecord] = {}
    for part in PARTS:
        report(part)
        graph = inline(graphs[part], CHUNK)
        if part == "decoder" and options.precision in BITS:
            quantize_weights(graph, BITS[options.precision])
        profiles = profiles_of(part, options.max_batch, options.max_length)
        records[part] = build_plan(library, target, part, graph, profiles, plans)
    record = PlanRecord(
        engine=options.engine,
        version=library.__version__,
        targets=target.capabilities,
        device=target.device,
        precision=options.precision,
        refittable=options.refittable,
        max_length=options.max_length,
        max_batch=options.max_batch,
        chunk=min(CHUNK, options.max_length),
        graphs=records,
    )
    record.write(plans)
    return _facts(record)


def find_target(library: Any, options: CompileOptions) -> Target:
    """What to build for; see `compile_graphs` for errors."""
    if options.engine == "tensorrt" and options.compute_capability:
        raise OptionError(
            got=f"--compute-capability {','.join(options.compute_capability)} for tensorrt",
            expected="no compute capability: TensorRT builds for the GPU that it runs on",
            fix="use --engine tensorrt-rtx to build ahead of time",
        )
    if options.engine == "tensorrt" or options.refittable:
        return _here(options)
    known = [name.lower() for name in library.ComputeCapability.__members__ if name[-1].isdigit()]
    capabilities = tuple(dict.fromkeys(options.compute_capability))
    for capability in capabilities:
        choose("compute capability", capability, known)
    if TURING in capabilities and options.precision != ON_TURING:
        raise OptionError(
            got=f"precision {options.precision} for {TURING}",
            expected=f"{ON_TURING}, the only one that TensorRT-RTX has there",
            fix=f"use --precision {ON_TURING}, or leave {TURING} out",
        )
    return Target(options.engine, capabilities, None, ahead=True, refittable=False)


def profiles_of(part: str, max_batch: int, max_length: int) -> tuple[Mapping[str, Range], ...]:
    """Optimisation profiles of a graph, in the order PREFILL, DECODE; `vision` has one.

    In a profile without any dynamic axis the builder lays the weights out anew, which stores them
    twice; so the batch is always dynamic.
    """
    batch = (1, 1, max(2, max_batch))
    if part == "vision":
        return ({"batch_size": batch},)
    if part == "embed":
        lengths = ((1, min(128, max_length), max_length), (1, 1, 1))
        return tuple({"batch_size": batch, "sequence_length": each} for each in lengths)
    chunk = min(CHUNK, max_length)
    return (
        _decoder_profile(batch, (1, min(128, chunk), chunk), (0, min(128, max_length), max_length)),
        _decoder_profile(batch, (1, 1, 1), (0, min(512, max_length), max_length)),
    )


def _decoder_profile(batch: Range, length: Range, past: Range) -> Mapping[str, Range]:
    low, likely, high = (a + b for a, b in zip(length, past, strict=True))
    return {
        "batch_size": batch,
        "sequence_length": length,
        "past_sequence_length": past,
        "total_sequence_length": (low, likely, high),
        "num_logits": (1, 1, length[2]),
    }


def _here(options: CompileOptions) -> Target:
    """The GPU of this machine."""
    if options.compute_capability:
        raise OptionError(
            got="a refittable build with --compute-capability",
            expected="one or the other: refittable plans are built on the GPU that runs them",
            fix="leave out --compute-capability or --refittable",
        )
    import torch

    device = cuda_device(options.engine)
    return Target(
        options.engine,
        (capability_of(device),),
        torch.cuda.get_device_name(device),
        ahead=False,
        refittable=options.refittable,
    )


def _facts(record: PlanRecord) -> Mapping[str, str]:
    return {
        record.engine: record.version,
        "compute_capability": ",".join(record.targets) or "portable",
        **({"gpu": record.device} if record.device else {}),
    }
