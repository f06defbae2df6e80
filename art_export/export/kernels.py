"""The form for ONNX Runtime: its own kernels where it has one for a whole operation.

ONNX has LinearAttention and CausalConvWithState since opset 27; ONNX Runtime has kernels for them
in its own domain only, so far. The schemas are the standard's, registered under that domain: the
exporter needs them to build the nodes, and onnx.checker then checks those nodes too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import onnx
import torch
from onnxscript import opset20 as op
from onnxscript.values import Opset

import engines.families.operators  # noqa: F401 - registers the operators named below

OPSET = 20
CONTRIB = "com.microsoft"
STANDARD_SINCE = 27
TO_THE_END = 2**62


@cache
def contrib_opset() -> Opset:
    """ONNX Runtime's own domain, with the two stateful operators registered."""
    for name in ("LinearAttention", "CausalConvWithState"):
        standard = onnx.defs.get_schema(name, STANDARD_SINCE, "")
        onnx.defs.register_schema(
            onnx.defs.OpSchema(
                name,
                CONTRIB,
                1,
                inputs=list(standard.inputs),
                outputs=list(standard.outputs),
                type_constraints=[
                    (each.type_param_str, each.allowed_type_strs, each.description)
                    for each in standard.type_constraints
                ],
                attributes=list(standard.attributes.values()),
            )
        )
    return Opset(CONTRIB, 1)


def lowerings() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Operator -> translation, for torch.onnx's `custom_translation_table`."""
    contrib = contrib_opset()

    def gated_delta_rule(query, key, value, log_decay, beta, state):  # type: ignore[no-untyped-def]
        heads = state.shape[1]
        packed = op.Constant(value_ints=[0, 0, -1])
        output, present = contrib.LinearAttention(
            *(op.Reshape(x, packed) for x in (query, key, value)),
            state,
            log_decay,
            beta,
            q_num_heads=heads,
            kv_num_heads=heads,
            update_rule="gated_delta",
        )
        return op.Reshape(output, op.Constant(value_ints=[0, 0, heads, -1])), present

    def causal_conv(inputs, weight, state):  # type: ignore[no-untyped-def]
        return contrib.CausalConvWithState(inputs, weight, None, state, activation="silu")

    return {
        torch.ops.art.gated_delta_rule.default: gated_delta_rule,
        torch.ops.art.causal_conv.default: causal_conv,
        torch.ops.art.attend.default: _attend,
        torch.ops.art.rms_norm.default: _rms_norm,
        torch.ops.art.rotate.default: _rotate,
        torch.ops.art.last_positions.default: _last_positions,
        torch.ops.art.vocabulary_logits.default: _vocabulary_logits,
    }


def _attend(query, key, value, past_keys, past_values, bias, scale):  # type: ignore[no-untyped-def]
    """Explicit attention, the query heads of one group laid side by side along the length."""
    heads, dim = query.shape[2], query.shape[3]
    groups = key.shape[2]
    turn = {"perm": [0, 2, 1, 3]}
    keys = op.Concat(past_keys, op.Transpose(key, **turn), axis=2)
    values = op.Concat(past_values, op.Transpose(value, **turn), axis=2)
    length = op.Shape(query, start=1, end=2)
    folded = op.Reshape(op.Transpose(query, **turn), op.Constant(value_ints=[0, groups, -1, dim]))
    scores = op.Mul(
        op.MatMul(folded, op.Transpose(keys, perm=[0, 1, 3, 2])), op.Constant(value_float=scale)
    )
    apart = op.Concat(
        op.Constant(value_ints=[0, heads]), length, op.Constant(value_ints=[-1]), axis=0
    )
    weights = op.Softmax(op.Add(op.Reshape(scores, apart), bias), axis=-1)
    total = op.Shape(keys, start=2, end=3)
    together = op.Concat(op.Constant(value_ints=[0, groups, -1]), total, axis=0)
    mixed = op.MatMul(op.Reshape(weights, together), values)
    back = op.Concat(
        op.Constant(value_ints=[0, heads]), length, op.Constant(value_ints=[dim]), axis=0
    )
    return op.Transpose(op.Reshape(mixed, back), **turn), keys, values


def _rms_norm(x, weight, eps):  # type: ignore[no-untyped-def]
    squares = op.ReduceMean(op.Mul(x, x), op.Constant(value_ints=[-1]))
    root = op.Sqrt(op.Add(squares, op.Constant(value_float=eps)))
    return op.Mul(op.Div(x, root), weight)


def _rotate(x, cos, sin):  # type: ignore[no-untyped-def]
    half, dim = cos.shape[-1], x.shape[-1]
    axis = op.Constant(value_ints=[2])
    cos, sin = op.Unsqueeze(cos, axis), op.Unsqueeze(sin, axis)
    first, second = _dims(x, 0, half), _dims(x, half, 2 * half)
    rest = [_dims(x, 2 * half, dim)] if dim > 2 * half else []
    turned = (
        op.Sub(op.Mul(first, cos), op.Mul(second, sin)),
        op.Add(op.Mul(second, cos), op.Mul(first, sin)),
    )
    return op.Concat(*turned, *rest, axis=-1)


def _dims(x, start, stop):  # type: ignore[no-untyped-def]
    return op.Slice(
        x,
        op.Constant(value_ints=[start]),
        op.Constant(value_ints=[stop]),
        op.Constant(value_ints=[-1]),
    )


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
    leading = op.Shape(hidden, start=0, end=2)
    shape = op.Concat(leading, op.Constant(value_ints=[vocabulary]), axis=0)
    return op.Reshape(logits, shape)
