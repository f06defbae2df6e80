"""One contract, held by every engine that is installed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from art_export.build import BuildOptions, build
from engines.contract import DecoderInput, Engine, EngineOptions
from engines.errors import MissingEngineError, OptionError
from engines.model import ModelSource
from engines.onnxruntime_providers import PROVIDERS
from engines.positions import text_positions
from engines.registry import ENGINES, Entry, engine_class, installed, open_engine
from engines.tensorrt_library import no_cuda
from engines.torch_engine import TorchEngine

SIZE = 64
TOLERANCE = 1e-4


PORTABLE = "onnxruntime of standard operators"
ON_CUDA = ("onnxruntime on CUDA", "torch on CUDA")


@pytest.fixture(scope="module", params=[*installed(), PORTABLE, *ON_CUDA])
def engine(
    request: pytest.FixtureRequest, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    name, _, _ = request.param.partition(" ")
    device = "cuda" if request.param in ON_CUDA else None
    if reason := engine_class(name).unavailable() or (device and _no_cuda(name)):
        pytest.skip(reason)
    if name == "torch":
        source = ModelSource("tiny", tiny_model_dir)
        with TorchEngine.from_source(source, SIZE, device=device or "cpu") as opened:
            yield opened
        return
    provider = "cuda" if device or request.param == PORTABLE else None
    bundle = tmp_path_factory.mktemp("engines") / name
    build(BuildOptions(str(tiny_model_dir), bundle, engine=name, size=SIZE, provider=provider))
    with open_engine(name, bundle, EngineOptions(device=device)) as opened:
        yield opened


def _no_cuda(name: str) -> str | None:
    """Why `name` cannot run on a GPU here; None where it can."""
    if name == "onnxruntime" and PROVIDERS["cuda"] not in ort.get_available_providers():
        return "onnxruntime was built without CUDA"
    return no_cuda()


@pytest.fixture(scope="module")
def reference(tiny_model_dir: Path) -> Engine:
    return TorchEngine.from_source(ModelSource("tiny", tiny_model_dir), SIZE)


def _step(engine: Engine, ids: np.ndarray, past: int, keep: int = 0) -> DecoderInput:
    batch, length = ids.shape
    return DecoderInput(
        engine.embed(ids),
        np.ones((batch, past + length), np.int64),
        text_positions(np.full(batch, past), length),
        keep,
    )


def _ids(batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 300, (batch, length))


def test_vision(engine: Engine, reference: Engine) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    pixels.flags.writeable = False  # as those of a picture are
    found = engine.vision(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference.vision(pixels), atol=TOLERANCE)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 5), (2, 64), (3, 65), (8, 1)])
def test_decode(engine: Engine, reference: Engine, batch: int, length: int) -> None:
    ids = _ids(batch, length)
    found, _ = engine.decode(_step(engine, ids, 0), engine.empty_state(batch))
    expected, _ = reference.decode(_step(reference, ids, 0), reference.empty_state(batch))
    assert found.shape == (batch, length, expected.shape[-1])
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize(("keep", "kept"), [(0, 6), (1, 1), (4, 4), (100, 6)])
def test_logits_to_keep(engine: Engine, keep: int, kept: int) -> None:
    ids = _ids(2, 6)
    whole, _ = engine.decode(_step(engine, ids, 0), engine.empty_state(2))
    found, _ = engine.decode(_step(engine, ids, 0, keep), engine.empty_state(2))
    np.testing.assert_allclose(found, whole[:, 6 - kept :], atol=TOLERANCE)


def test_pieces_give_what_the_whole_gives(engine: Engine) -> None:
    ids = _ids(2, 70)
    whole, _ = engine.decode(_step(engine, ids, 0), engine.empty_state(2))
    state, pieces = engine.empty_state(2), []
    for start, stop in ((0, 33), (33, 69), (69, 70)):
        logits, state = engine.decode(_step(engine, ids[:, start:stop], start), state)
        pieces.append(logits)
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=TOLERANCE)


def test_a_state_is_a_value(engine: Engine) -> None:
    """Decoding twice from one state gives the same bits, whatever was freed in between."""
    _, state = engine.decode(_step(engine, _ids(1, 9), 0), engine.empty_state())
    before = [array.copy() for array in engine.dump_state(state)]
    step = _step(engine, _ids(1, 1, seed=3), 9)
    first, _ = engine.decode(step, state)
    gc.collect()
    noise = [np.full(array.shape, 7.0) for array in before]
    second, _ = engine.decode(step, state)
    assert np.array_equal(first, second)
    assert noise
    for array, kept in zip(engine.dump_state(state), before, strict=True):
        assert np.array_equal(array, kept)


def test_states_survive_the_arrays_they_came_from(engine: Engine) -> None:
    _, state = engine.decode(_step(engine, _ids(1, 9), 0), engine.empty_state())
    arrays = [array.copy() for array in engine.dump_state(state)]
    loaded = engine.load_state(arrays)
    for array in arrays:
        array.fill(np.nan)
    del arrays
    gc.collect()
    step = _step(engine, _ids(1, 2, seed=5), 9)
    assert np.array_equal(engine.decode(step, loaded)[0], engine.decode(step, state)[0])


def test_left_padding_of_the_past_changes_nothing(engine: Engine) -> None:
    _, state = engine.decode(_step(engine, _ids(1, 9), 0), engine.empty_state())
    step = _step(engine, _ids(1, 1, seed=5), 9)
    padded = []
    for spec, array in zip(engine.state, engine.dump_state(state), strict=True):
        axis = spec.length_axis
        widths = [(4, 0) if n == axis else (0, 0) for n in range(array.ndim)]
        padded.append(np.pad(array, widths, constant_values=9.0))
    mask = np.concatenate([np.zeros((1, 4), np.int64), step.attention_mask], 1)
    shifted = DecoderInput(step.inputs_embeds, mask, step.position_ids, 0)
    found, _ = engine.decode(shifted, engine.load_state(padded))
    np.testing.assert_allclose(found, engine.decode(step, state)[0], atol=TOLERANCE)


def test_every_engine_lists_the_same_state(engine: Engine, reference: Engine) -> None:
    assert engine.state == reference.state


def test_unknown_engine() -> None:
    with pytest.raises(OptionError, match="did you mean 'onnxruntime'"):
        engine_class("onnxruntim")


def test_missing_engine_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "ghost", Entry("no.where:Ghost", "no_such_package_here", "ghost"))
    with pytest.raises(MissingEngineError, match=r"pip install 'art-export\[ghost\]'"):
        engine_class("ghost")


def test_a_stepper_makes_the_steps_that_decode_makes(engine: Engine) -> None:
    """Rows with padding at the left, several steps, and the first state still as it was."""
    ids = _ids(2, 9)
    _, state = engine.decode(_step(engine, ids, 0), engine.empty_state(2))
    before = [array.copy() for array in engine.dump_state(state)]
    mask, tokens = np.ones((2, 9), np.int64), _ids(2, 5, seed=4)
    stepper = engine.stepper(state, mask, np.full(2, 9), room=5)
    found = [stepper.step(tokens[:, step]).copy() for step in range(5)]
    for step in range(5):
        logits, state = engine.decode(_step(engine, tokens[:, step : step + 1], 9 + step), state)
        np.testing.assert_allclose(found[step], logits[:, -1], atol=TOLERANCE)
    again = engine.stepper(engine.load_state(before), mask, np.full(2, 9), room=1)
    np.testing.assert_array_equal(again.step(tokens[:, 0]), found[0])


def test_a_stepper_gives_its_state_back(engine: Engine) -> None:
    """Steps from a state that was dumped in the middle are those of the stepper itself."""
    ids = _ids(2, 9)
    _, state = engine.decode(_step(engine, ids, 0), engine.empty_state(2))
    mask, tokens = np.ones((2, 9), np.int64), _ids(2, 4, seed=4)
    mask[1, :3] = 0
    stepper = engine.stepper(state, mask, np.full(2, 9), room=6)
    for step in range(2):
        stepper.step(tokens[:, step])
    dumped = stepper.dump()
    for spec, array in zip(engine.state, dumped, strict=True):
        assert array.shape == (2, *(11 if size is None else size for size in spec.shape))
    expected = [stepper.step(tokens[:, step]).copy() for step in (2, 3)]
    longer = np.concatenate([mask, np.ones((2, 2), np.int64)], 1)
    again = engine.stepper(engine.load_state(dumped), longer, np.full(2, 11), room=2)
    for step, logits in zip((2, 3), expected, strict=True):
        np.testing.assert_allclose(again.step(tokens[:, step]), logits, atol=TOLERANCE)
