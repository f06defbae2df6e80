"""The form of standard ONNX operators alone, for OpenVINO, TensorRT and TensorRT-RTX.

The larger `art` operators become calls of ONNX functions, whose bodies a graph holds once however
many layers call them. An engine with a kernel of its own can put that in place of the call; for all
others `inline` gives a graph without functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnx_ir.passes.common import InlinePass
from onnxscript import opset23 as op
from onnxscript.values import Opset

import engines.families.operators  # noqa: F401 - registers the operators named below
from art_export.export import delta_rule

OPSET = 23
DOMAIN = "art"
TO_THE_END = 2**62
HEADS_FIRST = [0, 2, 1, 3]
FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]

CAUSAL_CONV = """
<domain: "art", opset_import: ["" : 23]>
CausalConv <channels, kept> (inputs, weight, state) => (outputs, present)
{
  joined = Concat <axis = -1> (state, inputs)
  mixed = Conv <group: int = @channels> (joined, weight)
  gate = Sigmoid (mixed)
  outputs = Mul (mixed, gate)
  start = Constant <value_ints: ints = @kept> ()
  end = Constant <value_ints = [9223372036854775807]> ()
  axis = Constant <value_ints = [-1]> ()
  present = Slice (joined, start, end, axis)
}
"""

ATTEND = """
<domain: "art", opset_import: ["" : 23]>
Attend <scale, folded, unfolded, side_by_side>
(query, key, value, past_keys, past_values, bias) => (mixed, keys, values)
{
  turned_query = Transpose <perm = [0, 2, 1, 3]> (query)
  turned_key = Transpose <perm = [0, 2, 1, 3]> (key)
  turned_value = Transpose <perm = [0, 2, 1, 3]> (value)
  keys = Concat <axis = 2> (past_keys, turned_key)
  values = Concat <axis = 2> (past_values, turned_value)
  factor = Constant <value_float: float = @scale> ()
  typed_factor = CastLike (factor, query)
  scaled = Mul (turned_query, typed_factor)
  folded_shape = Constant <value_ints: ints = @folded> ()
  grouped = Reshape (scaled, folded_shape)
  key_columns = Transpose <perm = [0, 1, 3, 2]> (keys)
  scores = MatMul (grouped, key_columns)
  repeats = Constant <value_ints: ints = @side_by_side> ()
  group_bias = Tile (bias, repeats)
  biased = Add (scores, group_bias)
  weights = Softmax <axis = -1> (biased)
  weighted = MatMul (weights, values)
  unfolded_shape = Constant <value_ints: ints = @unfolded> ()
  heads = Reshape (weighted, unfolded_shape)
  mixed = Transpose <perm = [0, 2, 1, 3]> (heads)
}
"""
"""Query heads that share keys and values lie side by side along the length, so that neither keys
nor values are copied."""

FUNCTIONS = {
    delta_rule.NAME: delta_rule.FUNCTION,
    "CausalConv": CAUSAL_CONV,
    "Attend": ATTEND,
}
SAME_TYPE = {
    "output": "value",
    "outputs": "inputs",
    "present": "state",
    "mixed": "query",
    "keys": "past_keys",
    "values": "past_values",
}
"""Output of a function -> the input whose type it has."""


def lowerings() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Operator -> translation, for torch.onnx's `custom_translation_table`."""
    return {
        torch.ops.art.gated_delta_rule.default: _gated_delta_rule,
        torch.ops.art.causal_conv.default: _causal_conv,
        torch.ops.art.attend.default: _attend,
        torch.ops.art.rms_norm.default: _rms_norm,
        torch.ops.art.rotate.default: _rotate,
        torch.ops.art.last_positions.default: _last_positions,
        torch.ops.art.vocabulary_logits.default: _vocabulary_logits,
    }


def finish(model: ir.Model) -> None:
    """Put the bodies of the functions that a graph calls into it; a second time changes nothing."""
    called = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for name in called:
        function = ir.serde.deserialize_function(onnx.parser.parse_function(FUNCTIONS[name]))
        model.functions[function.identifier()] = function
    if called:
        model.opset_imports[DOMAIN] = 1


def inline(model: ir.Model) -> ir.Model:
    """Replace every call of a function by its body, in place."""
    finish(model)
    InlinePass()(model)
    model.opset_imports.pop(DOMAIN, None)
    return model


@cache
def _functions() -> Opset:
    """The functions as operators: the exporter needs schemas to build their nodes."""
    for name, text in FUNCTIONS.items():
        proto = onnx.parser.parse_function(text)
        formal = {each: f"T{index}" for index, each in enumerate(proto.input)}
        formal |= {each: formal[SAME_TYPE[each]] for each in proto.output}
        onnx.defs.register_schema(
            OpSchema(
                name,
                DOMAIN,
                1,
                inputs=[OpSchema.FormalParameter(each, formal[each]) for each in proto.input],
                outputs=[OpSchema.FormalParameter(each, formal[each]) for each in proto.output],
                type_constraints=[(each, FLOATS, "") for each in sorted(set(formal.values()))],
                attributes=[
                    OpSchema.Attribute(each, _attribute_type(each), required=True)
                    for each in proto.attribute
                ],
            )
        )
    return Opset(DOMAIN, 1)


def _attribute_type(name: str) -> OpSchema.AttrType:
    kinds = {"scale": OpSchema.AttrType.FLOAT, "channels": OpSchema.AttrType.INT}
    return kinds.get(name, OpSchema.AttrType.INTS)


def _gated_delta_rule(query, key, value, log_decay, beta, state):  # type: ignore[no-untyped-def]
    _, heads, key_dim, value_dim = state.shape
    constants = [op.Constant(value=tensor) for tensor in delta_rule.constants()]
    return _functions().GatedDeltaRule(
        query,
        key,
        value,
        log_decay,
        beta,
        state,
        *constants,
        **delta_rule.attributes(heads, key_dim, value_dim),
    )


def _causal_conv(inputs, weight, state):  # type: ignore[no-untyped-def]
    return _functions().CausalConv(
        inputs, weight, state, channels=weight.shape[0], kept=[1 - weight.shape[2]]
    )


def _attend(query, key, value, past_keys, past_values, bias, scale):  # type: ignore[no-untyped-def]
    heads, dim, groups = query.shape[2], query.shape[3], key.shape[2]
    return _functions().Attend(
        query,
        key,
        value,
        past_keys,
        past_values,
        bias,
        scale=scale,
        folded=[0, groups, -1, dim],
        unfolded=[0, heads, -1, dim],
        side_by_side=[1, 1, heads // groups, 1],
    )


def _rms_norm(x, weight, eps):  # type: ignore[no-untyped-def]
    if x.dtype == ir.DataType.FLOAT:
        return op.RMSNormalization(x, weight, axis=-1, epsilon=eps)
    single = ir.DataType.FLOAT
    wide, gain = op.Cast(x, to=single), op.Cast(weight, to=single)
    return op.Cast(op.RMSNormalization(wide, gain, axis=-1, epsilon=eps), to=x.dtype)


def _rotate(x, cos, sin):  # type: ignore[no-untyped-def]
    """RotaryEmbedding wants as many rows of cosines as x has; a tower has one for all pictures."""
    half, dim = cos.shape[-1], x.shape[-1]
    if cos.shape[0] != 1:
        turned = op.RotaryEmbedding(
            op.Transpose(x, perm=HEADS_FIRST), cos, sin, rotary_embedding_dim=2 * half
        )
        return op.Transpose(turned, perm=HEADS_FIRST)
    axis = op.Constant(value_ints=[2])
    cos, sin = op.Unsqueeze(cos, axis), op.Unsqueeze(sin, axis)
    bounds = [(0, half), (half, 2 * half)] + [(2 * half, dim)] * (dim > 2 * half)
    first, second, *rest = (
        op.Slice(x, *(op.Constant(value_ints=[place]) for place in (start, end, -1)))
        for start, end in bounds
    )
    turned = (
        op.Sub(op.Mul(first, cos), op.Mul(second, sin)),
        op.Add(op.Mul(second, cos), op.Mul(first, sin)),
    )
    return op.Concat(*turned, *rest, axis=-1)


def _last_positions(hidden, count):  # type: ignore[no-untyped-def]
    """hidden[:, -count:]; a count of 0 starts at 0, and one beyond the length is clamped."""
    one = op.Constant(value_ints=[1])
    start = op.Reshape(op.Neg(count), one)
    return op.Slice(hidden, start, op.Constant(value_ints=[TO_THE_END]), one)


def _vocabulary_logits(hidden, weight):  # type: ignore[no-untyped-def]
    """Gemm reads the (vocabulary, hidden) matrix as it is; it takes rank 2 only."""
    vocabulary, width = weight.shape
    rows = op.Reshape(hidden, op.Constant(value_ints=[-1, width]))
    logits = op.Gemm(rows, weight, transB=1)
    shape = op.Concat(
        op.Shape(hidden, start=0, end=2), op.Constant(value_ints=[vocabulary]), axis=0
    )
    return op.Reshape(logits, shape)
