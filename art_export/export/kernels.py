"""The form for ONNX Runtime: its own kernels where it has one for a whole operation.

ONNX has LinearAttention and CausalConvWithState since opset 27; ONNX Runtime has kernels for them
in its own domain only, so far. The exporter needs a schema to build a node: for these two it is the
standard's, registered under that domain, for the others what is used of them is written down here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import onnx
import torch
from onnxscript import opset23 as op
from onnxscript.values import Opset

import engines.families.operators  # noqa: F401 - registers the operators named below

OPSET = 23
CONTRIB = "com.microsoft"
STANDARD_SINCE = 27
TO_THE_END = 2**62
FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
UNUSED = (None, None, None)
"""Inputs of GroupQueryAttention between the lengths and the bias: its own rotary embedding."""


@cache
def contrib_opset() -> Opset:
    """ONNX Runtime's own domain, with the operators registered that this form uses."""
    for name in ("LinearAttention", "CausalConvWithState"):
        standard = onnx.defs.get_schema(name, STANDARD_SINCE, "")
        constraints = [
            (each.type_param_str, each.allowed_type_strs, each.description)
            for each in standard.type_constraints
        ]
        _register(
            name,
            list(standard.inputs),
            list(standard.outputs),
            constraints,
            list(standard.attributes.values()),
        )
    _register_group_query_attention()
    _register_fused_matmul()
    return Opset(CONTRIB, 1)


def lowerings() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Operator -> translation, for torch.onnx's `custom_translation_table`."""
    contrib_opset()
    return {
        torch.ops.art.gated_delta_rule.default: _gated_delta_rule,
        torch.ops.art.causal_conv.default: _causal_conv,
        torch.ops.art.attend.default: _attend,
        torch.ops.art.rms_norm.default: _rms_norm,
        torch.ops.art.rotate.default: _rotate,
        torch.ops.art.last_positions.default: _last_positions,
        torch.ops.art.vocabulary_logits.default: _linear,
        torch.ops.aten.linear.default: _linear,
        torch.ops.aten.softplus.default: _softplus,
    }


def _gated_delta_rule(query, key, value, log_decay, beta, state):  # type: ignore[no-untyped-def]
    heads = state.shape[1]
    output, present = contrib_opset().LinearAttention(
        *(_packed(x) for x in (query, key, value)),
        state,
        op.CastLike(log_decay, query),
        op.CastLike(beta, query),
        q_num_heads=heads,
        kv_num_heads=heads,
        update_rule="gated_delta",
    )
    return _per_head(output, heads), present


def _causal_conv(inputs, weight, state):  # type: ignore[no-untyped-def]
    """The activation apart: the kernel's own computes one exponential at a time."""
    mixed, present = contrib_opset().CausalConvWithState(inputs, weight, None, state)
    return op.Mul(mixed, op.Sigmoid(mixed)), present


def _attend(query, key, value, past_keys, past_values, bias, scale):  # type: ignore[no-untyped-def]
    """One kernel that appends to keys and values in place when past and present are one buffer.

    How much of such a buffer is past is said by the lengths alone, so they come from the bias,
    which all layers share, and never from the buffer's shape. Padding at the left counts as past,
    which the bias hides. With the number of queries given, several rows may take several steps at
    once.
    """
    heads, groups = query.shape[2], key.shape[2]
    batch, length, total = (op.Shape(bias, start=n, end=n + 1) for n in (0, 2, 3))
    lengths = op.Cast(op.Expand(length, batch), to=onnx.TensorProto.INT32)
    last = op.Sub(op.Expand(total, batch), op.Constant(value_ints=[1]))
    mixed, keys, values = contrib_opset().GroupQueryAttention(
        *(_packed(x) for x in (query, key, value)),
        past_keys,
        past_values,
        op.Cast(last, to=onnx.TensorProto.INT32),
        op.Cast(op.Squeeze(total), to=onnx.TensorProto.INT32),
        *UNUSED,
        bias,
        *(None,) * 5,
        lengths,
        num_heads=heads,
        kv_num_heads=groups,
        scale=scale,
    )
    return _per_head(mixed, heads), keys, values


def _packed(x: Any) -> Any:
    """(batch, length, heads, dim) -> (batch, length, heads * dim)."""
    return op.Reshape(x, op.Constant(value_ints=[0, 0, -1]))


def _per_head(x: Any, heads: int) -> Any:
    """(batch, length, heads * dim) -> (batch, length, heads, dim)."""
    return op.Reshape(x, op.Constant(value_ints=[0, 0, heads, -1]))


def _rms_norm(x, weight, eps):  # type: ignore[no-untyped-def]
    return op.RMSNormalization(x, op.CastLike(weight, x), axis=-1, epsilon=eps)


def _rotate(x, cos, sin):  # type: ignore[no-untyped-def]
    heads, half = x.shape[2], cos.shape[-1]
    if cos.shape[0] == 1:
        batch = op.Concat(op.Shape(x, start=0, end=1), op.Constant(value_ints=[1, 1]), axis=0)
        cos, sin = op.Expand(cos, batch), op.Expand(sin, batch)
    turned = op.RotaryEmbedding(
        _packed(x), cos, sin, num_heads=heads, rotary_embedding_dim=2 * half
    )
    return _per_head(turned, heads)


def _last_positions(hidden, count):  # type: ignore[no-untyped-def]
    """hidden[:, -count:]; a count of 0 starts at 0, and one beyond the length is clamped."""
    one = op.Constant(value_ints=[1])
    start = op.Reshape(op.Neg(count), one)
    return op.Slice(hidden, start, op.Constant(value_ints=[TO_THE_END]), one)


def _linear(x, weight, bias=None):  # type: ignore[no-untyped-def]
    """Reads the (outputs, inputs) matrix as it lies on disk; a transposed copy would double it."""
    product = contrib_opset().FusedMatMul(x, weight, transB=1)
    return product if bias is None else op.Add(product, bias)


def _softplus(x, beta=1.0, threshold=20.0):  # type: ignore[no-untyped-def]
    """The kernel does not overflow, so PyTorch's threshold is not needed."""
    if beta != 1.0:
        raise NotImplementedError(f"softplus with beta {beta}")
    return op.Softplus(x)


def _register_group_query_attention() -> None:
    floats = ("query", "key", "value", "past_key", "past_value")
    unused = ("cos_cache", "sin_cache", "position_ids")
    scales = ("head_sink", "k_scale", "v_scale", "q_norm_weight", "k_norm_weight")
    _register(
        "GroupQueryAttention",
        [
            *(_input(name, "T") for name in floats),
            _input("seqlens_k", "M"),
            _input("total_sequence_length", "M"),
            *(_input(name, "T", optional=True) for name in unused),
            _input("attention_bias", "T", optional=True),
            *(_input(name, "T", optional=True) for name in scales),
            _input("query_seqlens", "M", optional=True),
        ],
        [_output(name, "T") for name in ("output", "present_key", "present_value")],
        [("T", FLOATS, ""), ("M", ["tensor(int32)"], "")],
        [
            _attribute("num_heads", onnx.defs.OpSchema.AttrType.INT),
            _attribute("kv_num_heads", onnx.defs.OpSchema.AttrType.INT),
            _attribute("scale", onnx.defs.OpSchema.AttrType.FLOAT),
        ],
    )


def _register_fused_matmul() -> None:
    _register(
        "FusedMatMul",
        [_input("A", "T"), _input("B", "T")],
        [_output("Y", "T")],
        [("T", FLOATS, "")],
        [_attribute("transB", onnx.defs.OpSchema.AttrType.INT)],
    )


def _register(
    name: str,
    inputs: list[onnx.defs.OpSchema.FormalParameter],
    outputs: list[onnx.defs.OpSchema.FormalParameter],
    constraints: list[tuple[str, Any, str]],
    attributes: list[onnx.defs.OpSchema.Attribute],
) -> None:
    onnx.defs.register_schema(
        onnx.defs.OpSchema(
            name,
            CONTRIB,
            1,
            inputs=inputs,
            outputs=outputs,
            type_constraints=constraints,
            attributes=attributes,
        )
    )


def _input(name: str, kind: str, optional: bool = False) -> onnx.defs.OpSchema.FormalParameter:
    option = onnx.defs.OpSchema.FormalParameterOption
    return onnx.defs.OpSchema.FormalParameter(
        name, kind, param_option=option.Optional if optional else option.Single
    )


def _output(name: str, kind: str) -> onnx.defs.OpSchema.FormalParameter:
    return onnx.defs.OpSchema.FormalParameter(name, kind)


def _attribute(name: str, kind: onnx.defs.OpSchema.AttrType) -> onnx.defs.OpSchema.Attribute:
    return onnx.defs.OpSchema.Attribute(name, kind, required=False)
