"""The portable form: the delta rule's function against PyTorch, whole graphs in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from art_export.export import delta_rule
from art_export.export.graphs import export_parts
from art_export.export.portable import DOMAIN, OPSET, finish, inline
from engines.families import load_parts
from engines.families.operators import gated_delta_rule
from engines.families.parts import Parts
from engines.model import load_model, resolve_model
from tests.models import TINY
from tests.portable import load_graphs, tiny_source

HEADS, KEY_DIM, VALUE_DIM = 3, 32, 24
LENGTHS = (1, 2, 5, 63, 64, 65, 200, 1000)
TOLERANCE = 1e-3
NODES_PER_LAYER = 60


@cache
def _rule(kind: int = TensorProto.FLOAT) -> ort.InferenceSession:
    """A graph of the rule alone, fp32 outside and `kind` at the function's inputs."""
    names = [*delta_rule.INPUTS, *delta_rule.CONSTANTS]
    nodes = [
        helper.make_node("Cast", [name], [f"{name}_cast"], to=kind) for name in delta_rule.INPUTS
    ]
    cast = [f"{name}_cast" if name in delta_rule.INPUTS else name for name in names]
    call = helper.make_node(
        delta_rule.NAME, cast, ["narrow_output", "narrow_present"], domain=DOMAIN
    )
    for name, value in delta_rule.attributes(HEADS, KEY_DIM, VALUE_DIM).items():
        call.attribute.append(helper.make_attribute(name, value))
    back = [
        helper.make_node("Cast", [f"narrow_{name}"], [name], to=TensorProto.FLOAT)
        for name in delta_rule.OUTPUTS
    ]
    shapes: dict[str, list[str | int]] = {
        "query": ["b", "l", HEADS, KEY_DIM],
        "key": ["b", "l", HEADS, KEY_DIM],
        "value": ["b", "l", HEADS, VALUE_DIM],
        "log_decay": ["b", "l", HEADS],
        "beta": ["b", "l", HEADS],
        "state": ["b", HEADS, KEY_DIM, VALUE_DIM],
    }
    graph = helper.make_graph(
        [*nodes, call, *back],
        "rule",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [*"abcd"])
            for n in delta_rule.OUTPUTS
        ],
        [
            numpy_helper.from_array(tensor.numpy(), name)
            for name, tensor in zip(delta_rule.CONSTANTS, delta_rule.constants(), strict=True)
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        functions=[onnx.parser.parse_function(delta_rule.FUNCTION)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _inputs(
    batch: int, length: int, decay: float = 1.0, likeness: float = 0.0
) -> dict[str, torch.Tensor]:
    """Random inputs; decay scales g, likeness mixes one common direction into all keys."""
    generator = torch.Generator().manual_seed(length + batch)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def unit(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(x, dim=-1)

    own, common = draw(batch, length, HEADS, KEY_DIM), draw(batch, 1, HEADS, KEY_DIM)
    return {
        "query": unit(draw(batch, length, HEADS, KEY_DIM)),
        "key": unit((1 - likeness) * own + likeness * common),
        "value": draw(batch, length, HEADS, VALUE_DIM),
        "log_decay": -decay * draw(batch, length, HEADS).abs(),
        "beta": (draw(batch, length, HEADS) + 6 * likeness).sigmoid(),
        "state": draw(batch, HEADS, KEY_DIM, VALUE_DIM),
    }


def _compare_rule(inputs: Mapping[str, torch.Tensor], session: ort.InferenceSession) -> None:
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    for ours, theirs in zip(found, gated_delta_rule(**inputs), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs.numpy(), atol=TOLERANCE)


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("length", LENGTHS)
def test_delta_rule(length: int, batch: int) -> None:
    _compare_rule(_inputs(batch, length), _rule())


@pytest.mark.parametrize("length", [1, 65, 200])
@pytest.mark.parametrize("decay", [0.0, 0.01, 50.0, 5000.0])
def test_delta_rule_with_weak_and_strong_decay(decay: float, length: int) -> None:
    _compare_rule(_inputs(2, length, decay), _rule())


@pytest.mark.parametrize("likeness", [0.5, 0.9, 1.0])
def test_delta_rule_with_keys_that_repeat(likeness: float) -> None:
    """Where the product of six factors for 64 steps would lose everything."""
    _compare_rule(_inputs(2, 200, 0.0, likeness), _rule())


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
def test_delta_rule_computes_narrow_inputs_in_fp32(kind: str) -> None:
    dtype = {"FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16}[kind]
    inputs = {name: tensor.to(dtype).float() for name, tensor in _inputs(2, 200).items()}
    session = _rule(TensorProto.DataType.Value(kind))
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    expected = gated_delta_rule(**inputs)
    for ours, theirs in zip(found, expected, strict=True):
        # One rounding at the end, and an ulp where that falls the other way.
        assert (
            np.abs(ours - theirs.numpy()).max() <= 2 * torch.finfo(dtype).eps * theirs.abs().max()
        )


def _decoder_inputs(parts: Parts, batch: int, length: int, past: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(length)
    ids = torch.from_numpy(rng.integers(0, 300, (batch, length)))
    mask = np.ones((batch, past + length), np.int64)
    mask[0, : past // 2] = 0
    state = {
        spec.past: rng.normal(size=(batch, *(past if n is None else n for n in spec.shape)))
        for spec in parts.state
    }
    return {
        "inputs_embeds": parts.embed(ids).numpy(),
        "attention_mask": mask,
        "position_ids": np.tile(np.arange(past, past + length), (3, batch, 1)),
        "num_logits_to_keep": np.array(2, np.int64),
        **{name: array.astype(np.float32) for name, array in state.items()},
    }


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_vl"])
@pytest.mark.parametrize("flat", [False, True], ids=["functions", "inlined"])
def test_decoder_does_what_pytorch_does(family: str, flat: bool) -> None:
    decoder = load_graphs(family)["decoder"]
    if flat:
        assert not inline(decoder).functions
    proto = ir.to_proto(decoder)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    parts = load_parts(load_model(tiny_source(family)), TINY[family].size)
    for batch, length, past in ((1, 1, 0), (2, 1, 9), (1, 5, 70), (2, 65, 3)):
        feeds = _decoder_inputs(parts, batch, length, past)
        found = session.run(None, feeds)
        embeds, mask, positions, keep, *state = map(torch.from_numpy, feeds.values())
        with torch.no_grad():
            logits, present = parts.decoder(embeds, mask, positions, tuple(state), int(keep))
        for ours, theirs in zip(found, (logits, *present), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=TOLERANCE)


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_vl"])
def test_only_standard_operators(family: str) -> None:
    for graph in load_graphs(family).values():
        assert {node.domain for node in inline(graph).graph.all_nodes()} <= {""}
        assert dict(graph.opset_imports) == {"": OPSET}


def test_finishing_twice_changes_nothing() -> None:
    decoder = load_graphs("qwen3_5")["decoder"]
    before = set(decoder.functions)
    finish(decoder)
    assert set(decoder.functions) == before
    assert {name for _, name, _ in before} == {"GatedDeltaRule", "CausalConv", "Attend"}


@pytest.mark.slow
def test_shipped_decoder_is_compact() -> None:
    """Nodes of the file that compute, with the bodies of functions and of control flow; not those
    before the first and after the last layer."""
    parts = load_parts(load_model(resolve_model("demo")), 256)
    decoder = dict(export_parts(parts, "portable"))["decoder"]
    finish(decoder)
    nodes = [node for node in decoder.graph.all_nodes() if _of_layer(node)]
    for function in decoder.functions.values():
        nodes += [node for node in function.all_nodes() if node.op_type != "Constant"]
    assert len(nodes) <= NODES_PER_LAYER * len(parts.state) // 2


def _of_layer(node: ir.Node) -> bool:
    """What the exporter leaves without a place counts, too."""
    place = node.metadata_props.get("namespace", "")
    return not place or "layers." in place
