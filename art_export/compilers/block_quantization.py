"""Quantised matrices in graphs: ONNX Runtime's MatMulNBits and GatherBlockQuantized.

How they are quantised says `engines.quantization`. The table of the embeddings is stored the same
way as a matrix, so that it is one with the output matrix where the model ties the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from engines.quantization import block_of, codes_of, scales_of

CONTRIB = "com.microsoft"
UINT8 = ir.DataType.UINT8
INT8_INPUTS = 4
"""MatMulNBits's `accuracy_level`: activations are quantised too, to int8, block by block."""


def quantize(model: ir.Model, bits: int) -> None:
    """Replace every matrix product with a constant, and every look-up of rows in one.

    Products of one input become one product, which rounds the input to int8 once and keeps all
    cores busy for longer at a time.
    """
    graph = model.graph
    graph.opset_imports[CONTRIB] = 1
    for nodes in _by_input([node for node in graph if _constant_of(node) == 1]):
        _multiply(graph, nodes, bits)
    for node in [node for node in graph if _constant_of(node) == 0]:
        _look_up(graph, node, bits)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def _constant_of(node: ir.Node) -> int | None:
    """Which input of a product or a look-up is a matrix that blocks fit into, if one is."""
    place = {"FusedMatMul": 1, "Gather": 0}.get(node.op_type)
    value = None if place is None else node.inputs[place]
    tensor = None if value is None else value.const_value
    if tensor is None or len(tensor.shape) != 2 or not block_of(tensor.shape.numpy()[1]):
        return None
    return place


def _by_input(nodes: list[ir.Node]) -> list[list[ir.Node]]:
    """Products, those of the same input together, in the graph's order."""
    groups: dict[ir.Value | None, list[ir.Node]] = {}
    for node in nodes:
        groups.setdefault(node.inputs[0], []).append(node)
    return list(groups.values())


def _multiply(graph: ir.Graph, nodes: list[ir.Node], bits: int) -> None:
    """One MatMulNBits for `nodes`, whose outputs are cut from its own."""
    codes, scales = _store(graph, [node.inputs[1] for node in nodes], bits, flat=False)
    rows, blocks = scales.const_value.shape.numpy() if scales.const_value else ()
    block = block_of(_matrix(nodes[0].inputs[1]).shape[1])
    product = ir.node(
        "MatMulNBits",
        [nodes[0].inputs[0], codes, scales],
        attributes={
            "K": int(blocks) * block,
            "N": int(rows),
            "bits": bits,
            "block_size": block,
            "accuracy_level": INT8_INPUTS,
        },
        domain=CONTRIB,
    )
    made = [product]
    if len(nodes) > 1:
        sizes = np.array([len(_matrix(node.inputs[1])) for node in nodes])
        cuts = _initializer(graph, f"{codes.name}_rows", ir.Tensor(sizes))
        made.append(
            ir.node(
                "Split",
                [product.outputs[0], cuts],
                attributes={"axis": -1},
                outputs=[ir.Value() for _ in nodes],
            )
        )
    _replace(graph, nodes, made)


def _look_up(graph: ir.Graph, node: ir.Node, bits: int) -> None:
    codes, scales = _store(graph, [node.inputs[0]], bits, flat=True)
    found = ir.node(
        "GatherBlockQuantized",
        [codes, node.inputs[1], scales],
        attributes={
            "bits": bits,
            "block_size": block_of(_matrix(node.inputs[0]).shape[1]),
            "gather_axis": 0,
            "quantize_axis": 1,
        },
        domain=CONTRIB,
    )
    _replace(graph, [node], [found])


def _store(
    graph: ir.Graph, values: Sequence[ir.Value | None], bits: int, flat: bool
) -> tuple[ir.Value, ir.Value]:
    """Initializers with the codes of matrices below each other, made when they are written, and
    their scales. flat: codes (outputs, bytes), else (outputs, blocks, bytes)."""

    def stacked() -> NDArray[np.float32]:
        matrices = [_matrix(value) for value in values]
        return matrices[0] if len(matrices) == 1 else np.concatenate(matrices)

    scales = scales_of(stacked(), bits)
    outputs, blocks = scales.shape
    width = block_of(_matrix(values[0]).shape[1]) * bits // 8
    shape = (outputs, blocks * width) if flat else (outputs, blocks, width)

    def codes() -> ir.TensorProtocol:
        return ir.Tensor(codes_of(stacked(), scales, bits).reshape(shape))

    name = next(value.name for value in values if value is not None)
    return (
        _initializer(graph, f"{name}_codes", ir.LazyTensor(codes, UINT8, ir.Shape(shape))),
        _initializer(graph, f"{name}_scales", ir.Tensor(scales)),
    )


def _matrix(value: ir.Value | None) -> NDArray[np.float32]:
    if value is None or value.const_value is None:
        raise RuntimeError("a weight that is not constant")
    matrix: NDArray[np.float32] = value.const_value.numpy()
    return matrix


def _initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    shape = ir.Shape(tensor.shape.numpy())
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def _replace(graph: ir.Graph, nodes: list[ir.Node], made: list[ir.Node]) -> None:
    """`made`, whose last node has an output for every one of `nodes`, in place of these."""
    old = [node.outputs[0] for node in nodes]
    new = made[-1].outputs
    for each, like in zip(new, old, strict=True):
        each.shape, each.type = like.shape, like.type
    ir.convenience.replace_nodes_and_values(graph, nodes[0], nodes, made, old, new)
