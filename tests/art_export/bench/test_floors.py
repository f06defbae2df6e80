"""Floors are counted from the graphs: held to counts by hand."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from art_export.bench.floors import operations, product_speed, read_bandwidth, state_bytes
from engines.model import load_config
from engines.onnxruntime_engine import GRAPHS


def _decoder(bundle: Path) -> ir.Graph:
    return ir.load(bundle / GRAPHS["decoder"]).graph


def test_operations_are_twice_the_weights_for_every_token(tiny_bundle_dir: Path) -> None:
    decoder = _decoder(tiny_bundle_dir)
    matrices = {
        name: value.const_value.size
        for name, value in decoder.initializers.items()
        if value.const_value is not None and len(value.const_value.shape) == 2
        and name.endswith("weight")
    }  # fmt: skip
    head = matrices.pop("decoder.lm_head.weight")
    sizes = {"batch_size": 1, "sequence_length": 7, "num_logits": 1}
    assert operations(decoder, sizes) == 2 * (7 * sum(matrices.values()) + head)


def test_bytes_of_a_state(tiny_bundle_dir: Path) -> None:
    config = load_config(tiny_bundle_dir).get_text_config()
    found = state_bytes(_decoder(tiny_bundle_dir), 7)
    full = config.layer_types.count("full_attention")
    linear = len(config.layer_types) - full
    keys = 2 * config.num_key_value_heads * config.head_dim * 7
    heads = config.linear_num_value_heads
    matrix = heads * config.linear_key_head_dim * config.linear_value_head_dim
    assert found["keys and values"] == 4 * full * keys
    assert found["recurrent"] == 4 * linear * matrix
    assert found["convolution"] > 0


def test_speeds_are_measured() -> None:
    assert all(speed > 0 for speed in (*read_bandwidth(1 << 20, 2), *product_speed(2)))
