"""Quantised matrices in graphs: ONNX Runtime's MatMulNBits and GatherBlockQuantized.

How they are quantised says `engines.quantization`. The table of the embeddings is stored the same
way as a matrix, so that it is one with the output matrix where the model ties the two. Products are
those of either form: FusedMatMul of the kernels', MatMul and Gemm of the portable one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from engines.quantization import block_of, codes_of, scales_of

CONTRIB = "com.microsoft"
UINT8 = ir.DataType.UINT8
INT8_INPUTS = 4
"""MatMulNBits's `accuracy_level`: activations are quantised too, to int8, block by block."""


@dataclass(frozen=True, eq=False)
class _Weight:
    """A constant matrix; turned: it lies (inputs, outputs) in the graph."""

    name: str
    tensor: ir.TensorProtocol
    turned: bool

    @property
    def inputs(self) -> int:
        return int(self.tensor.shape.numpy()[0 if self.turned else 1])

    @property
    def outputs(self) -> int:
        return int(self.tensor.shape.numpy()[1 if self.turned else 0])

    def matrix(self) -> NDArray[np.float32]:
        """The matrix as (outputs, inputs)."""
        array: NDArray[np.float32] = self.tensor.numpy()
        return array.T if self.turned else array


def quantize(model: ir.Model, bits: int) -> None:
    """Replace every matrix product with a constant, and every look-up of rows in one.

    Products of one input become one product, which rounds the input to int8 once and keeps all
    cores busy for longer at a time.
    """
    graph = model.graph
    graph.opset_imports[CONTRIB] = 1
    for products in _by_input(graph):
        _multiply(graph, products, bits)
    for node in list(graph):
        if node.op_type == "Gather" and (table := _weight(node, 0, turned=False)) is not None:
            _look_up(graph, node, table, bits)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def _factor(node: ir.Node) -> _Weight | None:
    """The constant matrix that a node multiplies by, if it does that alone and blocks fit into
    the matrix."""
    if node.op_type == "MatMul":
        return _weight(node, 1, turned=True)
    if node.op_type not in ("FusedMatMul", "Gemm") or len(node.inputs) > 2:
        return None
    if node.attributes.get_int("transA", 0) or node.attributes.get_float("alpha", 1.0) != 1.0:
        return None
    return _weight(node, 1, turned=not node.attributes.get_int("transB", 0))


def _weight(node: ir.Node, place: int, turned: bool) -> _Weight | None:
    value = node.inputs[place]
    tensor = None if value is None else value.const_value
    if value is None or tensor is None or len(tensor.shape) != 2:
        return None
    weight = _Weight(value.name or "", tensor, turned)
    return weight if block_of(weight.inputs) else None


def _by_input(graph: ir.Graph) -> list[dict[ir.Node, _Weight]]:
    """Products and their matrices, those of the same input together, in the graph's order."""
    groups: dict[ir.Value | None, dict[ir.Node, _Weight]] = {}
    for node in graph:
        if (weight := _factor(node)) is not None:
            groups.setdefault(node.inputs[0], {})[node] = weight
    return list(groups.values())


def _multiply(graph: ir.Graph, products: dict[ir.Node, _Weight], bits: int) -> None:
    """One MatMulNBits for `products`, whose outputs are cut from its own."""
    nodes, weights = list(products), list(products.values())
    codes, scales = _store(graph, weights, bits, flat=False)
    product = ir.node(
        "MatMulNBits",
        [nodes[0].inputs[0], codes, scales],
        attributes={
            "K": weights[0].inputs,
            "N": sum(weight.outputs for weight in weights),
            "bits": bits,
            "block_size": block_of(weights[0].inputs),
            "accuracy_level": INT8_INPUTS,
        },
        domain=CONTRIB,
    )
    made = [product]
    if len(nodes) > 1:
        sizes = np.array([weight.outputs for weight in weights])
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


def _look_up(graph: ir.Graph, node: ir.Node, table: _Weight, bits: int) -> None:
    codes, scales = _store(graph, [table], bits, flat=True)
    found = ir.node(
        "GatherBlockQuantized",
        [codes, node.inputs[1], scales],
        attributes={
            "bits": bits,
            "block_size": block_of(table.inputs),
            "gather_axis": 0,
            "quantize_axis": 1,
        },
        domain=CONTRIB,
    )
    _replace(graph, [node], [found])


def _store(
    graph: ir.Graph, weights: Sequence[_Weight], bits: int, flat: bool
) -> tuple[ir.Value, ir.Value]:
    """Initializers with the codes of matrices below each other, made when they are written, and
    their scales. flat: codes (outputs, bytes), else (outputs, blocks, bytes)."""

    def stacked() -> NDArray[np.float32]:
        matrices = [weight.matrix() for weight in weights]
        return matrices[0] if len(matrices) == 1 else np.concatenate(matrices)

    scales = scales_of(stacked(), bits)
    outputs, blocks = scales.shape
    width = block_of(weights[0].inputs) * bits // 8
    shape = (outputs, blocks * width) if flat else (outputs, blocks, width)

    def codes() -> ir.TensorProtocol:
        return ir.Tensor(codes_of(stacked(), scales, bits).reshape(shape))

    name = weights[0].name
    return (
        _initializer(graph, f"{name}_codes", ir.LazyTensor(codes, UINT8, ir.Shape(shape))),
        _initializer(graph, f"{name}_scales", ir.Tensor(scales)),
    )


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
