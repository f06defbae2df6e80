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
    assert np.array_equal(found.logits, state.logits)


def test_the_logits_are_those_after_the_picture(runtime: Runtime) -> None:
    """Of the last token of the prefix, and other than without the picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    found = [runtime.prefix(each).logits for each in pixels]
    others = [*found, runtime.bare_logits()]
    assert {each.shape for each in others} == {found[0].shape}
    assert len({each.tobytes() for each in others}) == 3


def test_tensors_carry_the_graphs_names(runtime: Runtime, data: bytes) -> None:
    assert set(load(data)) == {spec.past for spec in runtime.engine.state} | {"logits"}


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


@pytest.mark.parametrize("logits", [None, np.zeros((1, 7), np.float32)])
def test_a_state_without_logits(runtime: Runtime, data: bytes, logits: np.ndarray | None) -> None:
    tensors = load(data)
    del tensors["logits"]
    if logits is not None:
        tensors["logits"] = logits
    length = str(len(runtime.chat.prefix_ids()))
    foreign = save(tensors, metadata={"length": length, "next_position": "5"})
    with pytest.raises(BundleError, match="has no logits"):
        prefix_from_bytes(runtime.engine, foreign, "here")
