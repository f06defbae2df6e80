"""Prefix states on disk: exact both ways, and checked against the graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from engines.chat import Chat
from engines.errors import BundleError
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.prefix import prefix_from_bytes, prefix_to_bytes
from engines.runtime import Runtime

SIZE = 64


@pytest.fixture(scope="module")
def runtime(tiny_bundle_dir: Path) -> Iterator[Runtime]:
    with OnnxRuntimeEngine(tiny_bundle_dir) as engine:
        yield Runtime(engine, Chat.load(tiny_bundle_dir, SIZE))


@pytest.fixture(scope="module")
def data(runtime: Runtime) -> bytes:
    return prefix_to_bytes(runtime.prefix(np.full((SIZE, SIZE, 3), 99, np.uint8)), runtime.engine)


def test_round_trip_is_exact(runtime: Runtime, data: bytes) -> None:
    state = runtime.prefix(np.full((SIZE, SIZE, 3), 99, np.uint8))
    found = prefix_from_bytes(runtime.engine, data, "here")
    assert (found.length, found.next_position) == (state.length, state.next_position)
    assert found.length == len(runtime.chat.prefix_ids())
    for array, expected in zip(found.arrays, state.arrays, strict=True):
        assert np.array_equal(array, expected)


def test_tensors_carry_the_graphs_names(runtime: Runtime, data: bytes) -> None:
    assert set(load(data)) == {spec.past for spec in runtime.engine.state}


@pytest.mark.parametrize("cut", [0, 5, 200, -1])
def test_a_truncated_file(runtime: Runtime, data: bytes, cut: int) -> None:
    with pytest.raises(BundleError, match=r"here.*\n.*\n.*swap the picture in again"):
        prefix_from_bytes(runtime.engine, data[:cut], "here")


def test_a_state_of_other_graphs(runtime: Runtime, data: bytes) -> None:
    tensors = load(data)
    name = runtime.engine.state[0].past
    tensors[name] = tensors[name][:, :-1].copy()
    foreign = save(tensors, metadata={"length": "9", "next_position": "5"})
    with pytest.raises(BundleError, match=name):
        prefix_from_bytes(runtime.engine, foreign, "here")
