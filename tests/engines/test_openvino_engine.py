"""OpenVINO's engine against PyTorch: states as values, steps, devices, a whole chat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engines.chat import Chat
from engines.contract import DecoderInput, Engine, EngineOptions
from engines.errors import MissingEngineError
from engines.model import ModelSource, resolve_model
from engines.positions import text_positions
from engines.runtime import Runtime
from engines.torch_engine import TorchEngine
from tests.models import TINY
from tests.portable import load_graphs, tiny_source

pytest.importorskip("openvino", reason="needs openvino")

import openvino as ov

from art_export.compilers import CompileOptions
from art_export.compilers.openvino import compile_graphs
from art_export.export.graphs import export_parts
from engines.families import load_parts
from engines.model import load_model
from engines.openvino_engine import OpenVinoEngine, checked_device

TOLERANCE = 1e-4
FAMILIES = ("qwen3_5", "qwen3_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Engine]]:
    """OpenVINO's engine and PyTorch's, of one tiny model."""
    folder = tmp_path_factory.mktemp("openvino")
    size = TINY[request.param].size
    options = CompileOptions("openvino", "fp32", size, 1024)
    compile_graphs(load_graphs(request.param), folder, options, lambda stage: None)
    with OpenVinoEngine.open(folder, EngineOptions(threads=1)) as engine:
        yield engine, TorchEngine.from_source(tiny_source(request.param), size)


def _input(engine: Engine, ids: np.ndarray, past: int, keep: int = 0) -> DecoderInput:
    batch, length = ids.shape
    mask = np.ones((batch, past + length), np.int64)
    return DecoderInput(engine.embed(ids), mask, text_positions(np.full(batch, past), length), keep)


def _ids(batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 300, (batch, length))


def test_same_state_and_features(pair: tuple[Engine, Engine]) -> None:
    engine, reference = pair
    assert engine.state == reference.state
    size = TINY[FAMILIES[0]].size
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    np.testing.assert_allclose(engine.vision(pixels), reference.vision(pixels), atol=TOLERANCE)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 64), (3, 65), (8, 1), (1, 200)])
def test_decode_goes_on_from_any_state(
    pair: tuple[Engine, Engine], batch: int, length: int
) -> None:
    """The state of one engine is loaded into the other, so that both go on from the same."""
    engine, reference = pair
    first = _input(reference, _ids(batch, 7), 0)
    _, state = reference.decode(first, reference.empty_state(batch))
    after = _input(reference, _ids(batch, length, seed=1), 7)
    expected, last = reference.decode(after, state)
    found, ours = engine.decode(after, engine.load_state(reference.dump_state(state)))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    for array, other in zip(engine.dump_state(ours), reference.dump_state(last), strict=True):
        np.testing.assert_allclose(array, other, atol=TOLERANCE)


def test_steps_are_decodes(pair: tuple[Engine, Engine]) -> None:
    """Two rows, one of them padded, five steps; the state that they start from stays as it was."""
    engine, _ = pair
    _, state = engine.decode(_input(engine, _ids(2, 9), 0), engine.empty_state(2))
    before = [array.copy() for array in engine.dump_state(state)]
    mask = np.ones((2, 9), np.int64)
    mask[1, :3] = 0
    positions = np.array([9, 6])
    stepper, slow = engine.stepper(state, mask, positions, 5), state
    for step in range(5):
        tokens = _ids(2, 1, seed=step)
        mask = np.concatenate([mask, np.ones((2, 1), np.int64)], 1)
        inputs = DecoderInput(engine.embed(tokens), mask, text_positions(positions + step, 1))
        expected, slow = engine.decode(inputs, slow)
        np.testing.assert_allclose(stepper.step(tokens[:, 0]), expected[:, -1], atol=1e-4)
    for array, kept in zip(engine.dump_state(state), before, strict=True):
        assert np.array_equal(array, kept)


def test_steppers_do_not_disturb_each_other(pair: tuple[Engine, Engine]) -> None:
    engine, _ = pair
    _, state = engine.decode(_input(engine, _ids(1, 5), 0), engine.empty_state())
    mask, positions = np.ones((1, 5), np.int64), np.array([5])
    alone = engine.stepper(state, mask, positions, 2)
    alone.step(np.array([20]))
    expected = alone.step(np.array([21])).copy()
    first, second = (engine.stepper(state, mask, positions, 2) for _ in range(2))
    first.step(np.array([20]))
    second.step(np.array([99]))
    assert np.array_equal(first.step(np.array([21])), expected)


def test_unknown_device_names_those_that_are_here() -> None:
    with pytest.raises(MissingEngineError, match="NOPE"):
        checked_device(_Devices(["CPU", "NPU"]), "NOPE")
    with pytest.raises(MissingEngineError, match="one of: CPU"):
        checked_device(_Devices(["CPU"]), "gpu")
    assert checked_device(_Devices(["CPU", "GPU.0"]), "gpu") == "GPU"
    assert checked_device(ov.Core(), "cpu") == "CPU"


class _Devices:
    def __init__(self, names: list[str]) -> None:
        self.available_devices = names


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped")
    parts = load_parts(load_model(resolve_model("demo")), 256)
    options = CompileOptions("openvino", "fp32", 256, 4096)
    graphs = dict(export_parts(parts, "portable"))
    compile_graphs(graphs, folder, options, lambda stage: None)
    return folder


@pytest.mark.slow
def test_shipped_model_with_a_picture(shipped: Path) -> None:
    """Prompt logits within tolerance, and the same greedy answer."""
    source: ModelSource = resolve_model("demo")
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    prompt = "Wake me up at 07:30 on Monday."
    chat = Chat.load(source.path, 256)
    found = []
    with OpenVinoEngine.open(shipped) as engine:
        for each in (engine, TorchEngine.from_source(source, 256)):
            runtime = Runtime(each, chat)
            prefix = runtime.prefix(pixels)
            logits = runtime.tail_logits(runtime.tail(prompt, prefix), prefix)
            answer = runtime.generate([prompt], [prefix], 24)[0]
            found.append((logits, answer.token_ids))
    (ours, our_tokens), (theirs, their_tokens) = found
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
    assert our_tokens == their_tokens
