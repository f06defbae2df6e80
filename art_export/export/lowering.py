"""How the `art` operators become ONNX nodes.

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


def onnxruntime_lowerings() -> Mapping[Callable[..., Any], Callable[..., Any]]:
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
        torch.ops.art.last_positions.default: _last_positions,
        torch.ops.art.vocabulary_logits.default: _vocabulary_logits,
    }


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
