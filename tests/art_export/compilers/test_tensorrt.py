"""Real plans, built ahead of time by TensorRT-RTX: that needs its wheels and no GPU.

Only a GPU's runtime reads a plan's body, so plans are checked by what the parsed network takes and
gives, by the library's own look at their headers, and by their sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from art_export.build import BuildOptions, build
from art_export.compilers import CompileOptions
from art_export.compilers.tensorrt import (
    CHUNK,
    PRECISIONS,
    compile_graphs,
    find_target,
    profiles_of,
)
from art_export.compilers.tensorrt_build import build_plan
from art_export.compilers.tensorrt_delta_rule import function_text, inline
from art_export.compilers.tensorrt_quantize import (
    BITS,
    BLOCK,
    by_block,
    by_channel,
    quantize_weights,
)
from art_export.export import delta_rule
from engines.bundle import BundleFolder
from engines.errors import CheckFailed, MissingEngineError, OptionError
from engines.families import FAMILIES, load_parts
from engines.model import load_model
from engines.tensorrt_library import load_library, make_logger
from engines.tensorrt_plan import FIXED_INPUTS, PlanRecord, plans_folder, read_record
from tests.models import TINY
from tests.portable import load_graphs, tiny_source

LENGTH, BATCH = 1024, 4
TARGETS = ("sm89", "sm120")
OPTIONS = CompileOptions("tensorrt-rtx", "fp32", 64, LENGTH, BATCH, TARGETS)
FIXED = ["inputs_embeds", "attention_mask", "position_ids", "num_logits_to_keep"]


@pytest.fixture(scope="module")
def library() -> Any:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the TensorRT-RTX wheels are not here")
    return load_library("tensorrt-rtx")


def _compile(
    graphs: Mapping[str, ir.Model], folder: Path, options: CompileOptions
) -> tuple[PlanRecord, list[str]]:
    stages: list[str] = []
    facts = compile_graphs(graphs, folder, options, stages.append)
    assert facts["compute_capability"] == (",".join(options.compute_capability) or "portable")
    return read_record(plans_folder(folder, options.engine)), stages


def _complaints(library: Any, plan: bytes) -> int:
    """What the library holds against a plan's header, as far as it can tell without a GPU."""
    logger = make_logger(library)
    flags = library.EngineInvalidityDiagnostics
    _, found = library.Runtime(logger).get_engine_validity(plan)
    return int(found) & (int(flags.MALFORMED_ENGINE) | int(flags.VERSION_MISMATCH))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_plans_of_every_family(family: str, library: Any, tmp_path: Path) -> None:
    record, stages = _compile(load_graphs(family), tmp_path, OPTIONS)
    assert stages == ["vision", "embed", "decoder"]
    assert record.version == library.__version__
    assert (record.targets, record.device, record.precision) == (TARGETS, None, "fp32")
    parts = load_parts(load_model(tiny_source(family)), TINY[family].size)
    assert record.state == parts.state

    vision, embed, decoder = (record.graphs[part] for part in stages)
    size = TINY[family].size
    assert [(t.name, t.dtype, t.shape) for t in vision.inputs] == [
        ("pixels", "uint8", ("batch_size", size, size, 3))
    ]
    tokens = ("batch_size", "sequence_length")
    width = embed.outputs[0].shape[-1]
    assert vision.outputs[0].shape == ("batch_size", parts.picture_tokens, width)
    assert [(t.name, t.dtype, t.shape) for t in embed.inputs] == [("input_ids", "int64", tokens)]
    fixed = decoder.inputs[:FIXED_INPUTS]
    assert [t.name for t in fixed] == FIXED
    assert [t.dtype for t in fixed] == ["float32", "int64", "int64", "int64"]
    assert [t.shape for t in fixed] == [
        (*tokens, width),
        ("batch_size", "total_sequence_length"),
        (3, *tokens),
        (),
    ]
    assert decoder.outputs[0].shape[:2] == ("batch_size", "num_logits")
    state = (*decoder.inputs[FIXED_INPUTS:], *decoder.outputs)
    assert {tensor.dtype for tensor in state} == {"float32"}

    assert [len(record.graphs[part].profiles) for part in stages] == [1, 2, 2]
    prefill, decode = decoder.profiles
    assert prefill["sequence_length"][2] == CHUNK
    assert decode["sequence_length"] == (1, 1, 1)
    assert decode["past_sequence_length"] == (0, 512, LENGTH)
    # Three layers of the network for every layer of the model are the least imaginable.
    assert decoder.layers > 3 * len(parts.state)
    for graph in record.graphs.values():
        plan = (plans_folder(tmp_path, record.engine) / graph.file).read_bytes()
        assert not _complaints(library, plan)
    assert _complaints(library, bytes(len(plan)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "fp32"])
def test_plans_of_every_precision(precision: str, library: Any, tmp_path: Path) -> None:
    graphs = load_graphs("qwen3_5", PRECISIONS[precision])
    options = replace(OPTIONS, precision=precision, compute_capability=("sm89",))
    record, _ = _compile(graphs, tmp_path, options)
    dtype = "bfloat16" if precision == "bf16" else "float16"
    decoder = record.graphs["decoder"]
    for tensor in (*decoder.inputs[FIXED_INPUTS:], *decoder.outputs):
        assert tensor.dtype == dtype
    assert record.graphs["vision"].outputs[0].dtype == dtype


@pytest.mark.slow
def test_a_bundle_is_built_without_a_gpu(library: Any, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    out = tmp_path / "bundle"
    source = tiny_source("qwen3_vl")
    options = BuildOptions(
        str(source.path),
        out,
        engine="tensorrt-rtx",
        precision="fp16",
        size=64,
        compute_capability=("sm89",),
    )
    result = build(options)
    assert result.parity is None
    manifest = BundleFolder.open(out).manifest
    assert manifest.target == {
        "tensorrt-rtx": library.__version__,
        "compute_capability": "sm89",
    }
    assert {record.path for record in manifest.files} >= {
        f"engines/tensorrt-rtx/{name}"
        for name in ("vision.plan", "embed.plan", "decoder.plan", "plans.json")
    }


def _product(weight: np.ndarray, transposed: bool = False) -> ir.Model:
    """x (batch, length, inputs) @ weight; or a Gemm that reads (outputs, inputs)."""
    inputs, outputs = weight.shape[::-1] if transposed else weight.shape
    dtype = ir.DataType.from_numpy(weight.dtype)
    leading = ["batch_size"] if transposed else ["batch_size", "sequence_length"]
    x = ir.Value(name="x", shape=ir.Shape([*leading, inputs]), type=ir.TensorType(dtype))
    w = ir.Value(name="w", const_value=ir.tensor(weight, name="w"))
    w.shape, w.type = ir.Shape(weight.shape), ir.TensorType(dtype)
    if transposed:
        node = ir.node("Gemm", [x, w], {"transB": 1}, name="product")
    else:
        node = ir.node("MatMul", [x, w], name="product")
    y = node.outputs[0]
    y.name, y.shape, y.type = "y", ir.Shape([*leading, outputs]), ir.TensorType(dtype)
    graph = ir.Graph([x], [y], nodes=[node], initializers=[w], opset_imports={"": 23}, name="g")
    return ir.Model(graph, ir_version=11)


def _plan_bytes(library: Any, model: ir.Model, folder: Path) -> int:
    target = find_target(library, replace(OPTIONS, compute_capability=("sm89",)))
    profiles = profiles_of("embed", max_batch=1, max_length=LENGTH)
    record = build_plan(library, target, "product", model, profiles, folder)
    return (folder / record.file).stat().st_size


def test_weights_are_stored_once_and_narrow(library: Any, tmp_path: Path) -> None:
    """Neither the second profile nor the builder's folding may widen them again."""
    weight = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float16) / 32
    sizes = {16: _plan_bytes(library, _product(weight), tmp_path)}
    for bits in BITS.values():
        model = _product(weight)
        quantize_weights(model, bits)
        sizes[bits] = _plan_bytes(library, model, tmp_path)
    for bits, size in sizes.items():
        assert 1 <= size / (weight.size * bits / 8) < 1.3, bits


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_products(bits: int, transposed: bool) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((128, 128)).astype(np.float32)
    weight[:, 3] *= 50
    weight[5] = 0
    model = _product(weight, transposed)
    quantize_weights(model, bits)
    assert "w" not in model.graph.initializers
    x = rng.standard_normal((2, 128) if transposed else (2, 3, 128)).astype(np.float32)
    # As written: optimised, ONNX Runtime would round x too.
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), plain)
    (found,) = session.run(None, {"x": x})
    if transposed:
        expanded = by_channel(weight, summed=1).expanded().T
    else:
        expanded = (by_channel(weight, summed=0) if bits == 8 else by_block(weight)).expanded()
    np.testing.assert_allclose(found, x @ expanded, atol=1e-3, rtol=1e-5)


def test_rounding_errs_by_half_a_scale_at_most() -> None:
    weight = np.random.default_rng(2).standard_normal((192, 48)).astype(np.float16)
    by_column = by_channel(weight, summed=0)
    assert by_column.codes.dtype == np.int8 and by_column.scales.shape == (48,)
    error = np.abs(by_column.expanded() - weight)
    assert (error <= 0.51 * by_column.scales.astype(np.float32)).all()
    blocks = by_block(weight)
    assert blocks.scales.shape == (192 // BLOCK, 48)
    error = np.abs(blocks.expanded() - weight)
    assert (error <= 0.51 * np.repeat(blocks.scales.astype(np.float32), BLOCK, 0)).all()


def test_a_weight_that_others_read_stays() -> None:
    model = _product(np.ones((64, 64), np.float32))
    graph = model.graph
    reader = ir.node("Add", [graph.outputs[0], graph.initializers["w"]], name="reader")
    reader.outputs[0].name = "z"
    graph.append(reader)
    quantize_weights(model, 8)
    assert "w" in graph.initializers


def test_the_delta_rule_has_no_loop() -> None:
    graph = inline(load_graphs("qwen3_5")["decoder"], CHUNK)
    kinds = {node.op_type for node in graph.graph.all_nodes()}
    assert "If" in kinds
    assert kinds.isdisjoint({"Scan", "Loop", delta_rule.NAME})


def test_a_delta_rule_that_was_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    text = delta_rule.FUNCTION.replace("all_outputs = Slice", "all_outputs = Crop")
    monkeypatch.setattr(delta_rule, "FUNCTION", text)
    with pytest.raises(RuntimeError, match="no longer has a line 'all_outputs = Slice"):
        function_text(32, CHUNK)


def test_a_graph_that_the_library_does_not_take(library: Any, tmp_path: Path) -> None:
    model = _product(np.ones((64, 64), np.float16))
    node = model.graph.node(0)
    node.op_type = "NoSuchOperator"
    target = find_target(library, OPTIONS)
    with pytest.raises(CheckFailed, match=r"the product graph: NoSuchOperator 'product'"):
        build_plan(library, target, "product", model, profiles_of("embed", 1, 8), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (replace(OPTIONS, compute_capability=("sm98",)), "did you mean 'sm89'"),
        (replace(OPTIONS, compute_capability=("sm90",)), "sm89"),
        (replace(OPTIONS, compute_capability=("sm75",)), "fp16, the only one"),
        (replace(OPTIONS, refittable=True), "one or the other"),
        (replace(OPTIONS, engine="tensorrt"), "tensorrt-rtx to build ahead of time"),
    ],
)
def test_targets_that_cannot_be(library: Any, options: CompileOptions, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        find_target(library, options)


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx"])
def test_builds_that_need_a_gpu(engine: str, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = replace(OPTIONS, engine=engine, compute_capability=(), refittable=True)
    with pytest.raises(MissingEngineError, match="there is no CUDA device"):
        find_target(library, options)


def test_targets(library: Any) -> None:
    twice = find_target(library, replace(OPTIONS, compute_capability=("sm89", "sm89")))
    assert twice.capabilities == ("sm89",)
    assert find_target(library, replace(OPTIONS, compute_capability=())).capabilities == ()


@pytest.mark.parametrize("part", ["vision", "embed", "decoder"])
@pytest.mark.parametrize(("batch", "length"), [(1, 64), (8, 4096)])
def test_profiles(part: str, batch: int, length: int) -> None:
    for profile in profiles_of(part, batch, length):
        assert all(low <= likely <= high for low, likely, high in profile.values())
        assert profile["batch_size"][2] == max(2, batch)
        if part == "decoder":
            for new, past, total in zip(
                *(profile[f"{name}sequence_length"] for name in ("", "past_", "total_")),
                strict=True,
            ):
                assert new + past == total
