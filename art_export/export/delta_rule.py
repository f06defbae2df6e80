"""The gated delta rule in standard ONNX operators: a function, stored once in a graph.

A single step is the recurrence as it is. Otherwise the prompt is cut into chunks of CHUNK steps, as
in `engines.families.operators`: what does not depend on the state is computed for all chunks at
once, and a Scan carries the state through one affine map a chunk.

(I + L)^-1, L strictly lower triangular, is found in two stages. Blocks of BLOCK on the diagonal
come first: with A = -L inside of them A^8 = 0, and (I - A)^-1 = (I + A)(I + A^2)(I + A^4). What
lies below them is nilpotent in the same way, block by block. One product of six factors for all 64
steps would be as long, but its powers reach 10^17 when keys repeat, and fp32 is lost.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

CHUNK, BLOCK = 64, 8
NEVER = -1e30
"""Added to a logarithm to make its exponential 0; finite, since inf - inf is not a number."""

NAME = "GatedDeltaRule"
INPUTS = ("query", "key", "value", "log_decay", "beta", "state")
CONSTANTS = ("later", "near", "far", "eye")
OUTPUTS = ("output", "present")

FUNCTION = """
<domain: "art", opset_import: ["" : 23]>
GatedDeltaRule <scale, parts, pair, cut, whole>
(query, key, value, log_decay, beta, state, later, near, far, eye) => (output, present)
{
  factor = Constant <value_float: float = @scale> ()
  sizes = Constant <value_ints: ints = @parts> ()
  one = Constant <value_ints = [1]> ()
  last_axis = Constant <value_ints = [-1]> ()
  wide_query = Cast <to = 1> (query)
  wide_key = Cast <to = 1> (key)
  wide_value = Cast <to = 1> (value)
  wide_decay = Cast <to = 1> (log_decay)
  wide_beta = Cast <to = 1> (beta)
  first = Cast <to = 1> (state)
  scaled = Mul (wide_query, factor)
  decay_column = Unsqueeze (wide_decay, last_axis)
  beta_column = Unsqueeze (wide_beta, last_axis)
  packed = Concat <axis = -1> (scaled, wide_key, wide_value, decay_column, beta_column)
  length = Shape <start = 1, end = 2> (query)
  is_one = Equal (length, one)
  single = Squeeze (is_one)
  outputs, last = If (single) <
    then_branch = step () => (step_outputs, step_state) {
      heads_first = Transpose <perm = [0, 2, 1, 3]> (packed)
      sq, sk, sv, sg, sb = Split <axis = -1> (heads_first, sizes)
      s_decay = Exp (sg)
      decayed = Mul (s_decay, first)
      known = MatMul (sk, decayed)
      error = Sub (sv, known)
      news = Mul (sb, error)
      k_column = Transpose <perm = [0, 1, 3, 2]> (sk)
      update = Mul (k_column, news)
      step_state = Add (decayed, update)
      read = MatMul (sq, step_state)
      step_outputs = Transpose <perm = [0, 2, 1, 3]> (read)
    },
    else_branch = chunks () => (all_outputs, all_state) {
      zero = Constant <value_ints = [0]> ()
      size = Constant <value_ints = [64]> ()
      end = Constant <value_ints = [63]> ()
      down = Constant <value_int = 3> ()
      beyond = Neg (length)
      missing = Mod (beyond, size)
      widths = Concat <axis = 0> (zero, missing)
      padded = Pad (packed, widths, , one)
      cut_shape = Constant <value_ints: ints = @cut> ()
      apart = Reshape (padded, cut_shape)
      chunked = Transpose <perm = [1, 0, 3, 2, 4]> (apart)
      q, k, v, g, b = Split <axis = -1> (chunked, sizes)
      total = CumSum (g, down)
      total_row = Transpose <perm = [0, 1, 2, 4, 3]> (total)
      between = Sub (total, total_row)
      causal = Add (between, later)
      pairwise = Exp (causal)
      decay = Exp (total)
      k_row = Transpose <perm = [0, 1, 2, 4, 3]> (k)
      bk = Mul (b, k)
      overlap = MatMul (bk, k_row)
      system = Mul (overlap, pairwise)
      a = Mul (system, near)
      a2 = MatMul (a, a)
      a4 = MatMul (a2, a2)
      x1 = Add (eye, a)
      x1_turned = MatMul (a2, x1)
      x2 = Add (x1, x1_turned)
      x2_turned = MatMul (a4, x2)
      inverse = Add (x2, x2_turned)
      below = Mul (system, far)
      e = MatMul (inverse, below)
      e2 = MatMul (e, e)
      e4 = MatMul (e2, e2)
      bk_decayed = Mul (bk, decay)
      minus_bk = Neg (bk_decayed)
      bv = Mul (b, v)
      targets = Concat <axis = -1> (minus_bk, bv)
      y0 = MatMul (inverse, targets)
      y0_turned = MatMul (e, y0)
      y1 = Add (y0, y0_turned)
      y1_turned = MatMul (e2, y1)
      y2 = Add (y1, y1_turned)
      y2_turned = MatMul (e4, y2)
      written = Add (y2, y2_turned)
      pair_sizes = Constant <value_ints: ints = @pair> ()
      remaining = Gather <axis = 3> (pairwise, end)
      kept = Mul (k_row, remaining)
      changes = MatMul (kept, written)
      turn, shift = Split <axis = -1> (changes, pair_sizes)
      fade = Gather <axis = 3> (decay, end)
      all_state, starts = Scan <num_scan_inputs = 3, body = next_chunk (
        float[batch, heads, dk, dv] s,
        float[batch, heads, dk, dk] by,
        float[batch, heads, dk, dv] plus,
        float[batch, heads, 1, 1] faded
      ) => (float[batch, heads, dk, dv] s_next, float[batch, heads, dk, dv] s_start) {
        s_start = Identity (s)
        s_turned = MatMul (by, s)
        s_faded = Mul (faded, s)
        s_moved = Add (s_turned, s_faded)
        s_next = Add (s_moved, plus)
      }> (first, turn, shift, fade)
      from_state, from_value = Split <axis = -1> (written, pair_sizes)
      of_state = MatMul (from_state, starts)
      values = Add (of_state, from_value)
      products = MatMul (q, k_row)
      scores = Mul (products, pairwise)
      recent = MatMul (scores, values)
      q_decayed = Mul (q, decay)
      older = MatMul (q_decayed, starts)
      read_all = Add (recent, older)
      in_order = Transpose <perm = [1, 0, 3, 2, 4]> (read_all)
      whole_shape = Constant <value_ints: ints = @whole> ()
      joined = Reshape (in_order, whole_shape)
      all_outputs = Slice (joined, zero, length, one)
    }
  >
  output = CastLike (outputs, value)
  present = CastLike (last, state)
}
"""
"""INPUTS as `engines.families.operators.gated_delta_rule` takes them, in any float type; the
arithmetic is fp32."""


def attributes(heads: int, key_dim: int, value_dim: int) -> dict[str, float | list[int]]:
    """The function's attributes for a state (batch, heads, key_dim, value_dim)."""
    parts = [key_dim, key_dim, value_dim, 1, 1]
    return {
        "scale": key_dim**-0.5,
        "parts": parts,
        "pair": [key_dim, value_dim],
        "cut": [0, -1, CHUNK, heads, sum(parts)],
        "whole": [0, -1, heads, value_dim],
    }


@cache
def constants() -> tuple[ir.TensorProtocol, ...]:
    """The function's constant inputs, fp32 (CHUNK, CHUNK), in the order of CONSTANTS."""
    rows, columns = np.indices((CHUNK, CHUNK))
    same_block = rows // BLOCK == columns // BLOCK
    matrices: dict[str, NDArray[np.float64]] = {
        "later": np.where(columns > rows, NEVER, 0.0),
        "near": np.where((columns < rows) & same_block, -1.0, 0.0),
        "far": np.where((columns < rows) & ~same_block, -1.0, 0.0),
        "eye": np.eye(CHUNK),
    }
    return tuple(
        ir.Tensor(matrices[name].astype(np.float32), name=f"delta_rule_{name}")
        for name in CONSTANTS
    )
