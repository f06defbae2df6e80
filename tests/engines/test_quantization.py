"""Block quantisation: its error, and that training can compute with what a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from art_export.build import BuildOptions, build
from engines.errors import OptionError
from engines.families import load_parts
from engines.model import ModelSource, load_model
from engines.quantization import (
    BITS,
    BLOCKS,
    SHRINKING,
    block_of,
    codes_of,
    restored,
    round_weights,
    scales_of,
)

OUTPUTS, INPUTS, BLOCK = 24, 3 * BLOCKS[0], BLOCKS[0]


def _weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
def test_no_number_is_off_by_more_than_half_a_step(bits: int) -> None:
    """Except at the ends of the range, where one value is missing or the scale was shrunk."""
    weight = _weight()
    scales = scales_of(weight, bits)
    error = np.abs(restored(codes_of(weight, scales, bits), scales, bits) - weight)
    step = np.abs(np.repeat(scales, BLOCK, axis=1))
    assert (error <= step * 0.5001).mean() > 0.95
    assert (error <= step * (1.001 if bits == 8 else 3)).all()


def test_the_farthest_number_of_a_block_is_exact_with_8_bits() -> None:
    weight = _weight()
    scales = scales_of(weight, 8)
    found, given = (
        each.reshape(OUTPUTS, -1, BLOCK)
        for each in (restored(codes_of(weight, scales, 8), scales, 8), weight)
    )
    farthest = np.abs(given).argmax(-1)[..., None]
    ends = [np.take_along_axis(each, farthest, -1) for each in (found, given)]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)


def test_searching_scales_of_4_bits_lowers_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def error() -> float:
        scales = scales_of(_weight(), 4)
        found = restored(codes_of(_weight(), scales, 4), scales, 4)
        return float(np.square(found - _weight()).mean())

    searched = error()
    monkeypatch.setitem(SHRINKING, 4, (1.0,))
    assert searched < 0.95 * error()


@pytest.mark.parametrize(("inputs", "block"), [(256, 128), (576, 64), (96, 32), (100, 0)])
def test_the_largest_block_that_fits(inputs: int, block: int) -> None:
    assert block_of(inputs) == block


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_stay_zeros(bits: int) -> None:
    weight = _weight()
    weight[3] = 0
    scales = scales_of(weight, bits)
    found = restored(codes_of(weight, scales, bits), scales, bits)
    assert not found[3].any()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("precision", list(BITS))
def test_rounded_weights_are_those_of_a_bundle(
    tiny_model_dir: Path, tmp_path: Path, precision: str
) -> None:
    """The output matrix as the graph stores it, and as PyTorch then computes with it."""
    build(BuildOptions(str(tiny_model_dir), tmp_path / "b", precision=precision, size=64))
    graph = onnx.load(tmp_path / "b" / "onnx" / "decoder_model_merged.onnx").graph
    product = [node for node in graph.node if node.op_type == "MatMulNBits"][-1]
    stored = {each.name: each for each in graph.initializer}
    codes, scales = (numpy_helper.to_array(stored[name], str(tmp_path / "b" / "onnx"))
                     for name in product.input[1:3])  # fmt: skip
    expected = restored(codes.reshape(len(codes), -1), scales, BITS[precision])
    parts = load_parts(load_model(ModelSource("tiny", tiny_model_dir)), 64)
    assert round_weights(parts, precision) > 10
    head: Any = parts.decoder.lm_head
    np.testing.assert_array_equal(head.weight.detach().numpy(), expected)


def test_other_precisions_round_nothing(tiny_model_dir: Path) -> None:
    parts = load_parts(load_model(ModelSource("tiny", tiny_model_dir)), 64)
    before = torch.cat([weight.flatten() for weight in parts.decoder.parameters()])
    with pytest.raises(OptionError, match="int3"):
        round_weights(parts, "int3")
    after = torch.cat([weight.flatten() for weight in parts.decoder.parameters()])
    assert torch.equal(before, after)
