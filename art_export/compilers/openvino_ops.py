"""The `art` functions of a portable graph as operations of OpenVINO.

GatedDeltaNet is an operation that OpenVINO's CPU and GPU plugins share but that its public operator
sets lack; the CPU plugin's library brings it along as an extension.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from openvino import opset13 as ops
from openvino.frontend.onnx import ConversionExtension
from openvino.utils.node_factory import NodeFactory

from art_export.export.portable import DOMAIN
from engines.openvino_engine import plugin_library

TURN = np.array([0, 2, 1, 3], np.int64)


class Conversions:
    """Conversions of the functions' calls."""

    def __init__(self) -> None:
        self._factory = NodeFactory("opset13")
        self._factory.add_extension(str(plugin_library()))

    def extensions(self) -> list[Any]:
        """What an ov.Core needs to read graphs with these functions."""
        return [
            ConversionExtension("GatedDeltaRule", DOMAIN, self._gated_delta_rule),
            ConversionExtension("CausalConv", DOMAIN, self._causal_conv),
            ConversionExtension("Attend", DOMAIN, self._attend),
            ConversionExtension("RotaryEmbedding", "", self._rotate),
            ConversionExtension("Softplus", "", _softplus),
        ]

    def _gated_delta_rule(self, node: Any) -> list[Any]:
        query, key, value, log_decay, beta, state = (node.get_input(n) for n in range(6))
        rule = self._factory.create(
            "GatedDeltaNet", [query, key, value, state, log_decay, beta], {}
        )
        return list(rule.outputs())

    def _causal_conv(self, node: Any) -> list[Any]:
        inputs, weight, state = (node.get_input(n) for n in range(3))
        channels, _, kernel = weight.get_shape()
        joined = ops.concat([state, inputs], axis=2)
        filters = ops.reshape(weight, [channels, 1, 1, kernel], special_zero=False)
        mixed = ops.group_convolution(joined, filters, [1], [0], [0], [1])
        last = ops.constant(np.array([1 - kernel], np.int64))
        end, one, axis = (ops.constant(np.array([n], np.int64)) for n in (2**62, 1, 2))
        return [ops.swish(mixed).output(0), ops.slice(joined, last, end, one, axis).output(0)]

    def _attend(self, node: Any) -> list[Any]:
        query, key, value, past_keys, past_values, bias = (node.get_input(n) for n in range(6))
        keys, values = _appended(past_keys, key), _appended(past_values, value)
        _, heads, _, dim = node.get_attribute("unfolded")
        repeats = node.get_attribute("side_by_side")[2]
        shape = np.array([0, heads, -1, dim], np.int64)
        scale = ops.constant(np.float32(node.get_attribute("scale")))
        mixed = ops.scaled_dot_product_attention(
            ops.transpose(query, TURN),
            _repeated(keys, repeats, shape),
            _repeated(values, repeats, shape),
            bias,
            scale,
        )
        return [ops.transpose(mixed, TURN).output(0), keys.output(0), values.output(0)]

    def _rotate(self, node: Any) -> list[Any]:
        """As one operation, for which the plugin keeps angles in fp32: in bf16 position 1,000
        would be rounded to a multiple of 4."""
        heads, cos, sin = (node.get_input(n) for n in range(3))
        both = [
            ops.unsqueeze(ops.concat([half, half], axis=2), ops.constant(np.int64(1)))
            for half in (cos, sin)
        ]
        size = int(node.get_attribute("rotary_embedding_dim"))
        rotated = self._factory.create("RoPE", [heads, *both], {"config.rotary_ndims": size})
        return list(rotated.outputs())


def _softplus(node: Any) -> list[Any]:
    """log(1 + e^x) as max(x, 0) + 2 atanh(t / (2 + t)), t = e^-|x|.

    The plugin's own loses the small ones to the 1, and they add up: they are decays of a state,
    and cost a hundred times the error of all the rest.
    """
    x = node.get_input(0)
    small = ops.exp(ops.negative(ops.abs(x)))
    ratio = ops.divide(small, ops.add(small, ops.constant(np.float32(2))))
    log = ops.multiply(ops.atanh(ratio), ops.constant(np.float32(2)))
    return [ops.add(ops.relu(x), log).output(0)]


def _appended(past: Any, new: Any) -> Any:
    return ops.concat([past, ops.transpose(new, TURN)], axis=2)


def _repeated(cache: Any, repeats: int, shape: Any) -> Any:
    """Keys or values once for every query head; the plugin does not carry it out."""
    if repeats == 1:
        return cache
    apart = ops.unsqueeze(cache, ops.constant(np.int64(2)))
    times = ops.constant(np.array([1, 1, repeats, 1, 1], np.int64))
    copied = ops.broadcast(apart, times, broadcast_spec="BIDIRECTIONAL")
    return ops.reshape(copied, shape, special_zero=True)
