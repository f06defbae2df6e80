"""Compiling for ONNX Runtime: rewritten graphs compute the same, weights are stored once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from art_export.compilers import CompileOptions
from art_export.compilers import onnxruntime as compiler
from art_export.compilers.onnxruntime import WEIGHTS, compile_graphs, share_buffers
from art_export.compilers.onnxruntime_fusion import fuse
from art_export.export.graphs import count_nodes, export_parts
from engines.contract import DecoderInput
from engines.families import load_parts
from engines.model import ModelSource, load_model
from engines.onnxruntime_engine import GRAPHS, OnnxRuntimeEngine
from engines.positions import text_positions

SIZE = 64
LAYERS = 2
NODES_A_LAYER = 60
OUTSIDE_LAYERS = 50
"""Nodes for positions, mask and logits, which no layer adds to."""


@pytest.fixture(scope="module")
def exported(tiny_model_dir: Path) -> dict[str, bytes]:
    """The three graphs as they leave the exporter, in the form of the CPU's kernels."""
    return _export(tiny_model_dir, None)


@pytest.fixture(scope="module")
def portable(tiny_model_dir: Path) -> dict[str, bytes]:
    """The same as they are for a GPU's provider."""
    return _export(tiny_model_dir, "cuda")


@pytest.fixture(params=[None, "cuda"], ids=["kernels", "portable"])
def provider(request: pytest.FixtureRequest) -> str | None:
    asked: str | None = request.param
    return asked


@pytest.fixture
def either(request: pytest.FixtureRequest, provider: str | None) -> dict[str, bytes]:
    """The graphs of the form that `provider` takes."""
    graphs: dict[str, bytes] = request.getfixturevalue("portable" if provider else "exported")
    return graphs


def _export(folder: Path, provider: str | None) -> dict[str, bytes]:
    model = load_model(ModelSource("tiny", folder), "fp32")
    graphs = dict(export_parts(load_parts(model, SIZE), compiler.FORMS[provider]))
    return {name: ir.to_proto(graph).SerializeToString() for name, graph in graphs.items()}


def _graphs(exported: dict[str, bytes]) -> dict[str, ir.Model]:
    return {
        name: ir.from_proto(onnx.ModelProto.FromString(data)) for name, data in exported.items()
    }


def _compile(
    exported: dict[str, bytes], precision: str, folder: Path, provider: str | None = None
) -> Path:
    folder.mkdir()
    options = CompileOptions("onnxruntime", precision, SIZE, max_length=1024, provider=provider)
    stages: list[str] = []
    compile_graphs(_graphs(exported), folder, options, stages.append)
    assert tuple(stages) == compiler.STAGES
    return folder


def _run(model: ir.Model, feeds: dict[str, Any]) -> list[np.ndarray]:
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, feeds)
    return outputs


def _feeds(model: ir.Model, batch: int, length: int, past: int) -> dict[str, Any]:
    rng = np.random.default_rng(batch + length)
    sizes = {"batch_size": batch, "sequence_length": length, "past_sequence_length": past}
    feeds: dict[str, Any] = {
        str(value.name): rng.standard_normal(
            [n if isinstance(n, int) else sizes.get(str(n), past + length) for n in value.shape]
        ).astype(np.float32)
        for value in model.graph.inputs
        if value.shape is not None
    }
    mask = np.ones((batch, past + length), np.int64)
    mask[-1, : past // 2] = 0
    positions = text_positions(np.full(batch, past), length)
    scalars = {"attention_mask": mask, "position_ids": positions, "num_logits_to_keep": np.array(0)}
    return {**feeds, **scalars}


@pytest.mark.parametrize(("batch", "length", "past"), [(1, 1, 6), (3, 1, 6), (2, 5, 0), (2, 4, 8)])
def test_fused_graphs_compute_the_same(
    exported: dict[str, bytes], batch: int, length: int, past: int
) -> None:
    plain, fused = (_graphs(exported)["decoder"] for _ in range(2))
    fuse(fused)
    feeds = _feeds(plain, batch, length, past)
    for found, expected in zip(_run(fused, feeds), _run(plain, feeds), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)


def test_norms_to_unit_length_are_one_node(exported: dict[str, bytes]) -> None:
    """Of query and key, in the one linear layer of two."""
    decoder = _graphs(exported)["decoder"]
    before = Counter(node.op_type for node in decoder.graph)
    assert count_nodes(decoder) <= NODES_A_LAYER * LAYERS + OUTSIDE_LAYERS
    fuse(decoder)
    after = Counter(node.op_type for node in decoder.graph)
    assert (before["ReduceSum"], after["ReduceSum"]) == (2, 0)
    assert after["RMSNormalization"] == before["RMSNormalization"] + 2


def test_buffers_may_be_longer_than_what_is_in_them(exported: dict[str, bytes]) -> None:
    """Nothing but the attention itself reads keys and values, or how long their buffer is."""
    decoder = _graphs(exported)["decoder"]
    share_buffers(decoder)
    caches = [v for v in decoder.graph.inputs if v.name and v.name.startswith("past_key_values")]
    assert len(caches) == 2
    for cache in caches:
        assert [node.op_type for node, _ in cache.uses()] == ["GroupQueryAttention"]


@pytest.mark.parametrize(
    ("precision", "bytes_a_weight"), [("int8", 1 + 4 / 64), ("int4", 0.5 + 4 / 64)]
)
def test_a_tied_table_is_stored_once(
    either: dict[str, bytes],
    provider: str | None,
    precision: str,
    bytes_a_weight: float,
    tmp_path: Path,
) -> None:
    """It is read by rows in one graph and multiplied by in another."""
    embed = _graphs(either)["embed"].graph
    (table,) = [v.const_value for v in embed.initializers.values() if v.const_value is not None]
    folder = _compile(either, precision, tmp_path / precision, provider)
    places = set()
    for part, op_type in (("embed", "GatherBlockQuantized"), ("decoder", "MatMulNBits")):
        graph = ir.load(folder / GRAPHS[part]).graph
        node = next(each for each in reversed(graph) if each.op_type == op_type)
        tensors = [value.const_value for value in node.inputs if value is not None]
        external = [each for each in tensors if isinstance(each, ir.ExternalTensor)]
        places.add(tuple((each.offset, each.length) for each in external))
    (place,) = places
    assert sum(length or 0 for _, length in place) == table.size * bytes_a_weight


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_every_product_with_a_constant_is_quantised(
    either: dict[str, bytes], provider: str | None, precision: str, tmp_path: Path
) -> None:
    """As many outputs are multiplied in few bits as there are in all matrices of the decoder."""
    before = _products(_graphs(either)["decoder"])
    assert len(before) == 16
    decoder = ir.load(_compile(either, precision, tmp_path / "out", provider) / GRAPHS["decoder"])
    assert _products(decoder) == []
    quantised = [node for node in decoder.graph if node.op_type == "MatMulNBits"]
    sizes = [
        node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0) for node in quantised
    ]
    assert sum(sizes) == sum(before)


def _products(model: ir.Model) -> list[int]:
    """Weights of every product with a constant matrix, functions included."""
    nodes = [*model.graph, *(node for each in model.functions.values() for node in each)]
    weights = [
        node.inputs[1].const_value
        for node in nodes
        if node.op_type in ("MatMul", "Gemm", "FusedMatMul") and node.inputs[1] is not None
    ]
    return [tensor.size for tensor in weights if tensor is not None]


def test_precisions_in_order_of_bytes_and_error(
    either: dict[str, bytes], provider: str | None, tmp_path: Path
) -> None:
    sizes, errors, exact = [], [], None
    ids = np.random.default_rng(0).integers(10, 300, (2, 40))
    for precision in ("fp32", "int8", "int4"):
        folder = _compile(either, precision, tmp_path / precision, provider)
        sizes.append((folder / WEIGHTS).stat().st_size)
        with OnnxRuntimeEngine(folder) as engine:
            inputs = DecoderInput(
                engine.embed(ids), np.ones_like(ids), text_positions(np.zeros(2, int), 40), 0
            )
            logits, _ = engine.decode(inputs, engine.empty_state(2))
        exact = logits if exact is None else exact
        errors.append(float(np.abs(logits - exact).mean() / np.abs(exact).mean()))
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < errors[1] < 0.05 < errors[2] < 0.6


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_steps_are_those_of_plain_decoding(
    either: dict[str, bytes], provider: str | None, precision: str, tmp_path: Path
) -> None:
    with OnnxRuntimeEngine(_compile(either, precision, tmp_path / "out", provider)) as engine:
        ids = np.random.default_rng(0).integers(10, 300, (2, 6))
        mask = np.ones_like(ids)
        inputs = DecoderInput(engine.embed(ids), mask, text_positions(np.zeros(2, int), 6))
        _, state = engine.decode(inputs, engine.empty_state(2))
        stepper = engine.stepper(state, mask, np.array([6, 6]), room=3)
        for step in range(3):
            token = np.array([20 + step, 30])
            mask = np.concatenate([mask, np.ones((2, 1), np.int64)], 1)
            inputs = DecoderInput(
                engine.embed(token[:, None]), mask, text_positions(np.full(2, 6 + step), 1)
            )
            logits, state = engine.decode(inputs, state)
            np.testing.assert_array_equal(stepper.step(token), logits[:, -1])
