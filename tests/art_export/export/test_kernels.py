"""The form for ONNX Runtime: every operator alone, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_export.export import kernels
from engines.families import operators

TOLERANCE = 2e-5


class _Call(nn.Module):
    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.call(*inputs)


def _session(call: Callable[..., Any], *samples: torch.Tensor, **axes: Any) -> Any:
    """`call` exported with this form's translations; `axes`: dynamic axes of every input."""
    shapes = tuple(dict.fromkeys(dynamic, torch.export.Dim.AUTO) for dynamic in axes["dynamic"])
    program = torch.export.export(
        _Call(call).eval(), samples, dynamic_shapes=(shapes,), strict=False
    )
    model = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=kernels.OPSET,
        custom_translation_table=dict(kernels.lowerings()),
        verbose=False,
    )
    assert model is not None
    proto = model.model_proto
    onnx.checker.check_model(proto)
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def _check(session: Any, call: Callable[..., Any], *inputs: torch.Tensor) -> None:
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
    expected = call(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for each, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, wanted.numpy(), atol=TOLERANCE, rtol=1e-4)


def _rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


HEADS, GROUPS, DIM = 4, 2, 16


def _attention(batch: int, length: int, past: int, padding: int = 0) -> tuple[torch.Tensor, ...]:
    total = past + length
    keys = torch.arange(total)
    allowed = keys[None, :] <= torch.arange(length)[:, None] + past
    allowed = allowed[None] & (keys >= padding * torch.arange(batch)[:, None])[:, None]
    bias = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
    return (
        _rand(batch, length, HEADS, DIM),
        _rand(batch, length, GROUPS, DIM, seed=1),
        _rand(batch, length, GROUPS, DIM, seed=2),
        _rand(batch, GROUPS, past, DIM, seed=3),
        _rand(batch, GROUPS, past, DIM, seed=4),
        bias,
    )


def _attend(*inputs: torch.Tensor) -> Any:
    query, key, value, past_keys, past_values, bias = inputs
    return operators.attend(query, key, value, past_keys, past_values, bias, 0.3)


@pytest.fixture(scope="module")
def attention() -> Any:
    token = {0: None, 1: None}
    dynamic = [token, token, token, {0: None, 2: None}, {0: None, 2: None}, {0: 0, 2: 0, 3: 0}]
    return _session(_attend, *_attention(2, 5, 7), dynamic=dynamic)


@pytest.mark.parametrize(
    ("batch", "length", "past", "padding"),
    [(1, 5, 0, 0), (1, 1, 7, 0), (3, 1, 7, 3), (1, 4, 7, 0), (3, 4, 7, 3), (2, 65, 64, 30)],
)
def test_attend(attention: Any, batch: int, length: int, past: int, padding: int) -> None:
    """Several rows with several steps after a past, and padding at the left, among others."""
    _check(attention, _attend, *_attention(batch, length, past, padding))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 1), (3, 4)])
def test_attend_in_one_buffer(attention: Any, batch: int, length: int) -> None:
    """Past and present share a buffer that has room left: the same bits, and the room untouched."""
    past, room = 7, 20
    inputs = _attention(batch, length, past, padding=2)
    names = [each.name for each in attention.get_inputs()]
    plain = attention.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
    binding = attention.io_binding()
    for name, value in zip(names, inputs, strict=True):
        binding.bind_cpu_input(name, value.numpy())
    binding.bind_output(attention.get_outputs()[0].name)
    buffers = []
    for place, value in ((3, inputs[3]), (4, inputs[4])):
        buffer = np.full((batch, GROUPS, room, DIM), 7.0, np.float32)
        buffer[:, :, :past] = value.numpy()
        shared = onnxruntime.OrtValue.ortvalue_from_numpy(buffer)
        binding.bind_ortvalue_input(names[place], shared)
        binding.bind_ortvalue_output(attention.get_outputs()[place - 2].name, shared)
        buffers.append(buffer)
    attention.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), plain[0])
    for buffer, present in zip(buffers, plain[1:], strict=True):
        np.testing.assert_array_equal(buffer[:, :, : past + length], present)
        assert (buffer[:, :, past + length :] == 7.0).all()


def test_rms_norm() -> None:
    def call(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return operators.rms_norm(x, weight, 1e-3)

    session = _session(call, _rand(2, 5, 32), _rand(32), dynamic=[{0: None, 1: None}, {}])
    _check(session, call, _rand(3, 7, 32), _rand(32, seed=5))


@pytest.mark.parametrize("rotated", [8, DIM])
@pytest.mark.parametrize("rows", [1, 2])
def test_rotate(rotated: int, rows: int) -> None:
    """Part of a head or all of it; angles of every row, or one for all as vision towers have."""
    x, cos, sin = (
        _rand(2, 5, HEADS, DIM),
        _rand(rows, 5, rotated // 2),
        _rand(rows, 5, rotated // 2),
    )
    angles = {1: None} if rows == 1 else {0: None, 1: None}
    session = _session(operators.rotate, x, cos, sin, dynamic=[{0: None, 1: None}, angles, angles])
    batch = 3
    _check(
        session,
        operators.rotate,
        _rand(batch, 9, HEADS, DIM),
        *(_rand(1 if rows == 1 else batch, 9, rotated // 2, seed=n) for n in (1, 2)),
    )


def _delta_inputs(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    query, key = (F.normalize(_rand(batch, length, 2, DIM, seed=n), dim=-1) for n in (1, 2))
    return (
        query,
        key,
        _rand(batch, length, 2, 8, seed=3),
        -_rand(batch, length, 2, seed=4).abs(),
        _rand(batch, length, 2, seed=5).sigmoid(),
        _rand(batch, 2, DIM, 8, seed=6),
    )


def test_gated_delta_rule() -> None:
    token = {0: None, 1: None}
    session = _session(
        operators.gated_delta_rule, *_delta_inputs(2, 5), dynamic=[token] * 5 + [{0: None}]
    )
    for batch, length in ((1, 1), (3, 1), (2, 63), (1, 65), (1, 200)):
        _check(session, operators.gated_delta_rule, *_delta_inputs(batch, length))


def test_states_of_a_fixed_size_can_be_overwritten() -> None:
    """Past and present of both recurrent operators in one buffer: the same bits as apart."""

    def both(*inputs: torch.Tensor) -> Any:
        *delta, x, weight, conv = inputs
        return *operators.gated_delta_rule(*delta), *operators.causal_conv(x, weight, conv)

    def inputs(batch: int, length: int) -> tuple[torch.Tensor, ...]:
        return (
            *_delta_inputs(batch, length),
            _rand(batch, 12, length),
            _rand(12, 1, 4),
            _rand(batch, 12, 3),
        )

    token, row = {0: None, 1: None}, {0: None}
    session = _session(both, *inputs(2, 5), dynamic=[token] * 5 + [row, {0: 0, 2: 0}, {}, row])
    names = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    for batch, length in ((1, 1), (3, 1), (3, 2), (2, 70)):
        arrays = [x.numpy().copy() for x in inputs(batch, length)]
        plain = session.run(None, dict(zip(names, arrays, strict=True)))
        binding = session.io_binding()
        for place, (name, array) in enumerate(zip(names, arrays, strict=True)):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(name, value)
            if place in (5, 8):
                binding.bind_ortvalue_output(outputs[1 if place == 5 else 3], value)
        binding.bind_output(outputs[0])
        binding.bind_output(outputs[2])
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(arrays[5], plain[1])
        np.testing.assert_array_equal(arrays[8], plain[3])


def test_matrices_are_not_turned_round() -> None:
    """A linear layer reads its weight as PyTorch stores it, so that a tied one is stored once."""
    linear = nn.Linear(8, 6)
    program = torch.export.export(linear.eval(), (_rand(3, 8),), strict=False)
    model = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=kernels.OPSET,
        custom_translation_table=dict(kernels.lowerings()),
        verbose=False,
    )
    assert model is not None
    weights = [tuple(each.dims) for each in model.model_proto.graph.initializer]
    assert (6, 8) in weights
    assert (8, 6) not in weights
