"""Weights of matrix products as int8 or int4 with scales, which the engine expands as it reads.

Round to nearest, symmetric: int8 with one scale an output channel, int4 with one for every BLOCK
weights of it. The matrix that gives the logits has int8 in either case, since every token's choice
goes through it. What is multiplied stays in the dtype that the graph was exported in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

BITS = {"int8": 8, "int4": 4}
"""Precision -> bits of a weight."""
BLOCK = 64
"""Weights of an output channel that share a scale in int4."""
SMALLEST = 2.0**-14
"""Of a scale: the smallest normal number of fp16; channels of zeros have it."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A matrix as codes (int8 or int4) of its shape, and scales in its dtype.

    axis, block: as DequantizeLinear reads them. Without a block, scales are those of the slices
    along `axis`; with one, of every `block` weights along it.
    """

    codes: NDArray[Any]
    scales: NDArray[Any]
    axis: int
    block: int | None = None

    def expanded(self) -> NDArray[np.float32]:
        """What the engine multiplies with, but for the rounding of its dtype."""
        codes, scales = self.codes.astype(np.float32), self.scales.astype(np.float32)
        if self.block:
            wide: NDArray[np.float32] = codes * np.repeat(scales, self.block, axis=self.axis)
            return wide
        return codes * np.expand_dims(scales, 1 - self.axis)


def quantize_weights(model: ir.Model, bits: int) -> None:
    """Put DequantizeLinear between every weight of a matrix product and its node, in place."""
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        if weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
            continue
        matrix = weight.const_value.numpy()
        if node.op_type == "Gemm":
            transposed = node.attributes.get_int("transB", 0) == 1
            quantized = by_channel(matrix, summed=1 if transposed else 0)
        elif bits == BITS["int4"] and len(matrix) % BLOCK == 0:
            quantized = by_block(matrix)
        else:
            quantized = by_channel(matrix, summed=0)
        node.replace_input_with(1, _expand(model.graph, node, quantized))
        if not weight.uses():
            model.graph.initializers.pop(weight.name or "", None)


def by_channel(matrix: NDArray[Any], summed: int) -> Quantized:
    """int8 codes and a scale an output channel; products sum over the axis `summed`."""
    largest = np.abs(matrix.astype(np.float32)).max(axis=summed, keepdims=True)
    codes, scales = _round(matrix, largest, 8)
    return Quantized(codes.astype(np.int8), scales.squeeze(summed), axis=1 - summed)


def by_block(matrix: NDArray[Any]) -> Quantized:
    """int4 codes of (inputs, outputs) and a scale for every BLOCK inputs of an output."""
    inputs, outputs = matrix.shape
    apart = matrix.reshape(inputs // BLOCK, BLOCK, outputs)
    largest = np.abs(apart.astype(np.float32)).max(axis=1, keepdims=True)
    codes, scales = _round(apart, largest, 4)
    codes = codes.reshape(matrix.shape).astype(ml_dtypes.int4)
    return Quantized(codes, scales.squeeze(1), axis=0, block=BLOCK)


def _round(
    matrix: NDArray[Any], largest: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Whole numbers in -(2^(bits-1) - 1) .. 2^(bits-1) - 1, and scales in the matrix's dtype."""
    top = 2 ** (bits - 1) - 1
    # Rounded first: codes are made for the scales as they are stored.
    scales = np.maximum(largest / top, np.float32(SMALLEST)).astype(matrix.dtype)
    codes = np.rint(matrix.astype(np.float32) / scales.astype(np.float32))
    return np.clip(codes, -top, top), scales


def _expand(graph: ir.Graph, node: ir.Node, quantized: Quantized) -> ir.Value:
    """A DequantizeLinear before `node` -> the matrix that it gives."""
    name = f"{node.name}.weight"
    inputs = []
    for suffix, array in (("codes", quantized.codes), ("scales", quantized.scales)):
        tensor = ir.tensor(array, name=f"{name}.{suffix}")
        value = ir.Value(name=tensor.name, const_value=tensor)
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
        graph.register_initializer(value)
        inputs.append(value)
    attributes = {"axis": quantized.axis}
    if quantized.block:
        attributes["block_size"] = quantized.block
    expanding = ir.node("DequantizeLinear", inputs, attributes, name=name)
    expanding.outputs[0].name = f"{name}.expanded"
    graph.insert_before(node, expanding)
    return expanding.outputs[0]
