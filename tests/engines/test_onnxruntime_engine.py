"""ONNX Runtime's own ways: providers, steps in buffers that are bound once, threads at rest."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from art_export.build import BuildOptions, build
from engines import onnxruntime_engine
from engines.bundle import BundleFolder
from engines.contract import DecoderInput, Engine, EngineOptions
from engines.errors import MissingEngineError, OptionError
from engines.onnxruntime_engine import OnnxRuntimeEngine, State, chosen_provider
from engines.onnxruntime_providers import provider_list
from engines.positions import text_positions


@pytest.fixture(scope="module", params=["kernels", "portable"])
def engine(
    request: pytest.FixtureRequest,
    tiny_bundle_dir: Path,
    tiny_model_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OnnxRuntimeEngine]:
    """Both forms of the graphs on a CPU: their steps go through memory in different ways."""
    folder = tiny_bundle_dir
    if request.param == "portable":
        folder = tmp_path_factory.mktemp("bundles") / "portable"
        build(BuildOptions(str(tiny_model_dir), folder, size=64, provider="cuda"))
    with OnnxRuntimeEngine.open(folder) as opened:
        yield opened


PADDING = np.array([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]])


def _prefilled(engine: OnnxRuntimeEngine, batch: int) -> State:
    ids = np.random.default_rng(1).integers(10, 300, (batch, 7))
    inputs = DecoderInput(
        engine.embed(ids), np.ones((batch, 7), np.int64), text_positions(np.zeros(batch, int), 7)
    )
    return engine.decode(inputs, engine.empty_state(batch))[1]


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_are_those_of_plain_decoding(engine: OnnxRuntimeEngine, batch: int) -> None:
    """Rows of unequal length included: the same bits as embed and decode one after the other."""
    state, mask = _prefilled(engine, batch), PADDING[-batch:]
    positions = mask.sum(1)
    bound = engine.stepper(state, mask, positions, room=9)
    plain = Engine.stepper(engine, state, mask, positions, room=9)
    for tokens in np.random.default_rng(2).integers(10, 300, (9, batch)):
        np.testing.assert_array_equal(bound.step(tokens), plain.step(tokens))


def test_the_state_that_steps_start_from_stays(engine: OnnxRuntimeEngine) -> None:
    state = _prefilled(engine, 1)
    before = [array.copy() for array in engine.dump_state(state)]
    mask, positions = np.ones((1, 7), np.int64), np.array([7])
    first, second = (engine.stepper(state, mask, positions, room=4) for _ in range(2))
    tokens = np.array([[20], [30], [40], [50]])
    answers = [first.step(token).copy() for token in tokens]
    gc.collect()
    for token, answer in zip(tokens, answers, strict=True):
        np.testing.assert_array_equal(second.step(token), answer)
    for array, kept in zip(engine.dump_state(state), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_a_stepper_ends_where_its_room_does(engine: OnnxRuntimeEngine) -> None:
    stepper = engine.stepper(
        _prefilled(engine, 1), np.ones((1, 7), np.int64), np.array([7]), room=2
    )
    for _ in range(2):
        stepper.step(np.array([20]))
    with pytest.raises(ValueError, match="all the steps"):
        stepper.step(np.array([20]))


def test_a_step_after_another_engine_use(engine: OnnxRuntimeEngine) -> None:
    """Buffers of a decode loop are its own: work in between does not touch them."""
    state, mask = _prefilled(engine, 1), np.ones((1, 7), np.int64)
    quiet, disturbed = (engine.stepper(state, mask, np.array([7]), room=3) for _ in range(2))
    for token in ([20], [30], [40]):
        expected = quiet.step(np.array(token)).copy()
        _prefilled(engine, 3)
        np.testing.assert_array_equal(disturbed.step(np.array(token)), expected)


def test_idle_threads_do_not_spin(engine: OnnxRuntimeEngine) -> None:
    _prefilled(engine, 3)
    started = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - started < 0.1


def test_fp32_weights_are_mapped_and_not_copied(tiny_bundle_dir: Path) -> None:
    """A session that packs its matrices would hold a second copy of them."""
    with OnnxRuntimeEngine.open(tiny_bundle_dir) as opened:
        options = opened.session("decoder").get_session_options()
    assert options.get_session_config_entry("session.disable_prepacking") == "1"


def test_providers_by_device_and_by_name() -> None:
    assert chosen_provider(EngineOptions()) == "cpu"
    assert chosen_provider(EngineOptions(device="cpu", provider="cpu")) == "cpu"


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(device="cuda"),
        EngineOptions(device="cuda:1"),
        EngineOptions(provider="tensorrt"),
    ],
)
def test_a_provider_that_is_not_installed(options: EngineOptions) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has GPU providers")
    with pytest.raises(MissingEngineError, match=r"art-export\[gpu\]"):
        chosen_provider(options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (EngineOptions(device="cudo"), "did you mean 'cuda'"),
        (EngineOptions(device="cuda:x"), "did you mean 'cuda'"),
        (EngineOptions(provider="tensort"), "did you mean 'tensorrt'"),
        (EngineOptions(device="cpu", provider="cuda"), "leave one of the two out"),
    ],
)
def test_options_that_cannot_be(options: EngineOptions, named: str) -> None:
    with pytest.raises(OptionError, match=named):
        chosen_provider(options)


def test_tensorrt_keeps_what_it_builds_by_bundle(
    tiny_bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the user's cache and never in the bundle, whose files must stay as they were built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    providers = onnxruntime_engine._providers(tiny_bundle_dir, "tensorrt", 1)
    graphs = BundleFolder.open(tiny_bundle_dir).manifest.graph_sha256
    cache = tmp_path / "art-export" / "onnxruntime-tensorrt"
    assert providers == provider_list("tensorrt", 1, cache, graphs, half=False)
    assert cache.is_dir()


def test_kernels_of_the_cpu_are_not_for_another_provider() -> None:
    with pytest.raises(OptionError, match="build --provider cuda"):
        onnxruntime_engine._check_kernels("cuda")


def test_kernels_need_a_newer_runtime(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle_dir: Path
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.31.1")
    with pytest.raises(MissingEngineError, match=r"1\.31\.1"):
        OnnxRuntimeEngine.open(tiny_bundle_dir)
