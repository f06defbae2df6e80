"""The gated delta rule for TensorRT: without a loop.

The builder fails on a Scan inside of a branch, and a loop would launch every step by itself. The
state passes through the chunks of a prompt by affine maps; for the few chunks of one pass their
running composition takes log2 as many steps, all chunks at once: in step k each map is joined with
the one 2^k chunks before it. (Hillis and Steele, "Data Parallel Algorithms", 1986.)

The branch for a single token stays: which one runs follows from the length alone.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from art_export.export import delta_rule
from art_export.export.portable import DOMAIN, finish

BEGIN, END = "all_state, starts = Scan", "from_state, from_value"
"""Where the function carries the state through the chunks, and what comes after."""
CHANGES = (
    # Shapes are checked in both branches, whichever runs: the step's must fit with any length.
    (
        "heads_first = Transpose <perm = [0, 2, 1, 3]> (packed)",
        "from_end = Constant <value_ints = [-1]> () "
        "to_end = Constant <value_ints = [9223372036854775807]> () "
        "newest = Slice (packed, from_end, to_end, one) "
        "heads_first = Transpose <perm = [0, 2, 1, 3]> (newest)",
    ),
    # Both branches must give what the builder knows to be of one shape.
    ("outputs, last = If", "like = Shape (value) outputs, last = If"),
    (
        "step_outputs = Transpose <perm = [0, 2, 1, 3]> (read)",
        "newest_output = Transpose <perm = [0, 2, 1, 3]> (read) "
        "step_outputs = Expand (newest_output, like)",
    ),
    (
        "all_outputs = Slice (joined, zero, length, one)",
        "unpadded = Slice (joined, zero, length, one) all_outputs = Reshape (unpadded, like)",
    ),
)
"""What the builder wants otherwise beside the loop."""

MAPS = """
      eye_shape = Constant <value_ints = [{key_dim}, {key_dim}]> ()
      empty = ConstantOfShape (eye_shape)
      key_eye = EyeLike (empty)
      kept_part = Mul (fade, key_eye)
      map0 = Add (turn, kept_part)
      plus0 = Identity (shift)
      number = Shape <start = 0, end = 1> (turn)
      map_shape = Shape <start = 1> (turn)
      plus_shape = Shape <start = 1> (shift)
      nought = Constant <value_float = 0.0> ()
      beyond_all = Constant <value_ints = [9223372036854775807]> ()
"""
JOIN = """
      lead{k} = Constant <value_ints = [{lead}]> ()
      same_shape{k} = Concat <axis = 0> (lead{k}, map_shape)
      same{k} = Expand (key_eye, same_shape{k})
      maps{k} = Concat <axis = 0> (same{k}, map{k})
      earlier_map{k} = Slice (maps{k}, zero, number, zero)
      none_shape{k} = Concat <axis = 0> (lead{k}, plus_shape)
      none{k} = Expand (nought, none_shape{k})
      pluses{k} = Concat <axis = 0> (none{k}, plus{k})
      earlier_plus{k} = Slice (pluses{k}, zero, number, zero)
      moved{k} = MatMul (map{k}, earlier_plus{k})
      plus{next} = Add (moved{k}, plus{k})
      map{next} = MatMul (map{k}, earlier_map{k})
"""
STATES = """
      turned_first = MatMul (map{last}, first)
      ends = Add (turned_first, plus{last})
      begin = Unsqueeze (first, zero)
      states = Concat <axis = 0> (begin, ends)
      starts = Slice (states, zero, number, zero)
      final = Slice (states, number, beyond_all, zero)
      all_state = Squeeze (final, zero)
"""


def inline(model: ir.Model, longest: int) -> ir.Model:
    """Replace every call of a function by its body, in place; passes have `longest` tokens at
    most."""
    finish(model)
    calls = [node for node in model.graph if node.op_type == delta_rule.NAME]
    if calls:
        key_dim, _ = calls[0].attributes["pair"].as_ints()
        proto = onnx.parser.parse_function(function_text(key_dim, longest))
        function = ir.serde.deserialize_function(proto)
        model.functions[function.identifier()] = function
    InlinePass()(model)
    model.opset_imports.pop(DOMAIN, None)
    return model


def function_text(key_dim: int, longest: int) -> str:
    """The function with what is said above in place of its loop, for at most `longest` tokens."""
    before, begins, rest = delta_rule.FUNCTION.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not begins or not ends:
        raise _unknown(BEGIN)
    chunks = -(-longest // delta_rule.CHUNK)
    joins = (chunks - 1).bit_length()
    text = MAPS.format(key_dim=key_dim)
    text += "".join(JOIN.format(k=k, lead=2**k, next=k + 1) for k in range(joins))
    text = before + text + STATES.format(last=joins) + ends + after
    for old, new in CHANGES:
        if old not in text:
            raise _unknown(old)
        text = text.replace(old, new)
    return text


def _unknown(what: str) -> RuntimeError:
    return RuntimeError(f"the gated delta rule no longer has a line '{what}'")
