"""Block quantisation: packing, its error, and that ONNX Runtime reads what was packed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from art_export.compilers.block_quantization import CONTRIB, quantize
from engines.quantization import BLOCKS, codes_of, restored, scales_of

OUTPUTS, INPUTS, BLOCK = 24, 3 * BLOCKS[0], BLOCKS[0]


def _weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)


def _graph(weight: np.ndarray, node: ir.Node, taken: ir.Value) -> ir.Model:
    constant = next(value for value in node.inputs if value is not None and value is not taken)
    constant.const_value = ir.Tensor(weight)
    constant.shape, constant.type = ir.Shape(weight.shape), ir.TensorType(ir.DataType.FLOAT)
    node.outputs[0].name = "out"
    graph = ir.Graph(
        [taken],
        node.outputs,
        nodes=[node],
        initializers=[constant],
        opset_imports={"": 23, "com.microsoft": 1},
    )
    return ir.Model(graph, ir_version=10)


def _run(model: ir.Model, feed: np.ndarray) -> np.ndarray:
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {session.get_inputs()[0].name: feed})[0]
    return output


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 9])
def test_products(bits: int, rows: int) -> None:
    """The kernel multiplies by what the codes stand for; its inputs are rounded to int8."""
    weight = _weight()
    scales = scales_of(weight, bits)
    stored = restored(codes_of(weight, scales, bits), scales, bits)
    x = ir.Value(name="x", shape=ir.Shape(["n", INPUTS]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node(
        "com.microsoft", "FusedMatMul", [x, ir.Value(name="w")], [ir.AttrInt64("transB", 1)]
    )
    model = _graph(weight, node, x)
    quantize(model, bits)
    assert [each.op_type for each in model.graph] == ["MatMulNBits"]
    feed = np.random.default_rng(3).standard_normal((rows, INPUTS)).astype(np.float32)
    expected = feed @ stored.T
    assert np.abs(_run(model, feed) - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("node", "turned"),
    [("MatMul", True), ("Gemm", True), ("Gemm", False), ("FusedMatMul", True)],
)
def test_products_of_the_portable_form(node: str, turned: bool, bits: int) -> None:
    """A matrix that lies (inputs, outputs) is turned round first."""
    weight = _weight()
    x = ir.Value(name="x", shape=ir.Shape(["n", INPUTS]), type=ir.TensorType(ir.DataType.FLOAT))
    attributes = [] if turned else [ir.AttrInt64("transB", 1)]
    domain = CONTRIB if node == "FusedMatMul" else ""
    made = ir.Node(domain, node, [x, ir.Value(name="w")], attributes)
    model = _graph(weight.T.copy() if turned else weight, made, x)
    quantize(model, bits)
    assert [each.op_type for each in model.graph] == ["MatMulNBits"]
    feed = np.random.default_rng(3).standard_normal((5, INPUTS)).astype(np.float32)
    expected = feed @ _stored(weight, bits).T
    assert np.abs(_run(model, feed) - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize(
    "attribute", [ir.AttrFloat32("alpha", 2.0), ir.AttrInt64("transA", 1)], ids=str
)
def test_a_product_that_is_more_than_one_stays(attribute: ir.Attr) -> None:
    x = ir.Value(name="x", shape=ir.Shape(["n", INPUTS]))
    made = ir.Node("", "Gemm", [x, ir.Value(name="w")], [attribute, ir.AttrInt64("transB", 1)])
    model = _graph(_weight(), made, x)
    quantize(model, 8)
    assert [each.op_type for each in model.graph] == ["Gemm"]


@pytest.mark.parametrize("bits", [4, 8])
def test_products_of_one_input_become_one(bits: int) -> None:
    """Two of them here, and a third of what comes out of the first."""
    first, second, third = _weight(1), _weight(2)[:7], _weight(3)[:INPUTS, :]
    kind = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["n", INPUTS]), type=kind)
    weights = [
        ir.Value(name=name, const_value=ir.Tensor(array), shape=ir.Shape(array.shape), type=kind)
        for name, array in (("a", first), ("b", second), ("c", third))
    ]
    nodes = [
        ir.Node(CONTRIB, "FusedMatMul", [x, weight], [ir.AttrInt64("transB", 1)])
        for weight in weights[:2]
    ]
    wide = ir.Node("", "Tile", [nodes[0].outputs[0], _tiles()])
    last = ir.Node(CONTRIB, "FusedMatMul", [wide.outputs[0], weights[2]])
    last.attributes["transB"] = ir.AttrInt64("transB", 1)
    outputs = [nodes[1].outputs[0], last.outputs[0]]
    for name, value in zip("yz", outputs, strict=True):
        value.name = name
    constants = [*weights, wide.inputs[1]]
    graph = ir.Graph(
        [x],
        outputs,
        nodes=[*nodes, wide, last],
        initializers=[each for each in constants if each is not None],
        opset_imports={"": 23, CONTRIB: 1},
    )
    model = ir.Model(graph, ir_version=10)
    quantize(model, bits)
    assert [n.op_type for n in graph] == ["MatMulNBits", "Split", "Tile", "MatMulNBits"]
    feed = np.random.default_rng(3).standard_normal((5, INPUTS)).astype(np.float32)
    expected = feed @ _stored(second, bits).T
    assert np.abs(_run(model, feed) - expected).max() < 0.02 * np.abs(expected).max()


def _tiles() -> ir.Value:
    tensor = ir.Tensor(np.array([1, INPUTS // OUTPUTS]))
    kind = ir.TensorType(ir.DataType.INT64)
    return ir.Value(name="tiles", const_value=tensor, shape=ir.Shape([2]), type=kind)


def _stored(weight: np.ndarray, bits: int) -> np.ndarray:
    scales = scales_of(weight, bits)
    return restored(codes_of(weight, scales, bits), scales, bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_rows(bits: int) -> None:
    weight = _weight()
    scales = scales_of(weight, bits)
    ids = ir.Value(name="ids", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.INT64))
    model = _graph(weight, ir.Node("", "Gather", [ir.Value(name="w"), ids]), ids)
    quantize(model, bits)
    assert [each.op_type for each in model.graph] == ["GatherBlockQuantized"]
    chosen = np.array([5, 0, 23, 5])
    expected = restored(codes_of(weight, scales, bits), scales, bits)[chosen]
    np.testing.assert_allclose(_run(model, chosen), expected, rtol=1e-6, atol=1e-7)


def test_a_matrix_that_blocks_do_not_fit_stays() -> None:
    weight = _weight()[:, :-1].copy()
    x = ir.Value(name="x", shape=ir.Shape(["n", INPUTS - 1]))
    node = ir.Node(
        "com.microsoft", "FusedMatMul", [x, ir.Value(name="w")], [ir.AttrInt64("transB", 1)]
    )
    model = _graph(weight, node, x)
    quantize(model, 8)
    assert [each.op_type for each in model.graph] == ["FusedMatMul"]
