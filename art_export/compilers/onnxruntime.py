"""ONNX Runtime: the graphs with one file of weights, which may be quantised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from art_export.compilers import CompileOptions, Report
from art_export.compilers.block_quantization import quantize
from art_export.compilers.onnxruntime_fusion import fuse
from art_export.export.portable import finish
from art_export.export.weights import WeightFile
from engines.onnxruntime_engine import GRAPHS
from engines.quantization import BITS

FORMS = {None: "kernels", "cpu": "kernels", "cuda": "portable", "tensorrt": "portable"}
"""Kernels for whole operations are certain on a CPU alone, and TensorRT has none of them."""
PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "int8": "fp32", "int4": "fp32"}
LENGTH = None
STAGES = ("write", "check")
WEIGHTS = "onnx/model.onnx_data"


def compile_graphs(
    graphs: Mapping[str, ir.Model], folder: Path, options: CompileOptions, report: Report
) -> Mapping[str, str]:
    """Write the graphs, each tensor once, and let onnx.checker read them.

    Decoder and embeddings are quantised; the vision tower is not, since it runs once a picture
    and the picture is all that the adapter has to say.
    """
    report("write")
    if FORMS[options.provider] == "kernels":
        share_buffers(graphs["decoder"])
        fuse(graphs["decoder"])
    else:
        for model in graphs.values():
            finish(model)
    if bits := BITS.get(options.precision):
        for name in ("embed", "decoder"):
            quantize(graphs[name], bits)
    (folder / "onnx").mkdir()
    WeightFile(folder / WEIGHTS).move_out(
        {folder / GRAPHS[name]: model for name, model in graphs.items()}
    )
    report("check")
    for path in GRAPHS.values():
        onnx.checker.check_model(str(folder / path), full_check=True)
    return {} if options.provider is None else {"provider": options.provider}


def share_buffers(decoder: ir.Model) -> None:
    """Let keys and values of past and present be one buffer with room for what is to come.

    How long the past is must then be read off the mask and the new tokens, never off the buffer.
    """
    graph = decoder.graph
    values = {value.name: value for value in graph.inputs}
    caches = [value for value in graph.inputs if _is_cache(value)]
    past: ir.Value | None = None
    for cache in caches:
        for node, _ in list(cache.uses()):
            if node.op_type != "Shape":
                continue
            if _axis(node) != 2:
                raise RuntimeError(f"the graph reads an unforeseen axis of {cache.name}")
            if past is None:
                past = _past_length(graph, values["attention_mask"], values["inputs_embeds"])
            node.outputs[0].replace_all_uses_with(past)
            graph.remove(node, safe=True)


def _is_cache(value: ir.Value) -> bool:
    """Keys or values: the only rank 4 tensors with an axis beside the batch that is not fixed."""
    shape = value.shape
    return shape is not None and len(shape) == 4 and isinstance(shape[2], ir.SymbolicDim)


def _axis(node: ir.Node) -> int | None:
    start = node.attributes.get_int("start", 0)
    return start if node.attributes.get_int("end", -1) == start + 1 else None


def _past_length(graph: ir.Graph, mask: ir.Value, embeddings: ir.Value) -> ir.Value:
    """Length of the mask less that of the embeddings, int64 (1,), computed first of all."""
    total, length = (
        ir.node("Shape", [value], attributes={"start": 1, "end": 2}) for value in (mask, embeddings)
    )
    past = ir.node("Sub", [total.outputs[0], length.outputs[0]])
    graph.insert_before(graph[0], [total, length, past])
    return past.outputs[0]
