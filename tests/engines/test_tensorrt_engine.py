"""The engine's own work (pieces, states, buffers of the decode loop) with ONNX Runtime in the place
of TensorRT's plans, and what it says where it cannot run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from art_export.compilers.tensorrt_delta_rule import inline
from engines import tensorrt_engine, tensorrt_library
from engines.contract import Engine, EngineOptions, Stepper
from engines.errors import BundleError, MissingEngineError, OptionError, PromptError
from engines.tensorrt_engine import TensorRtEngine, TensorRtRtxEngine
from engines.tensorrt_library import cache_path, cuda_device, load_library
from engines.tensorrt_plan import (
    RECORD_NAME,
    GraphRecord,
    PlanRecord,
    TensorSpec,
    check_target,
    plans_folder,
    read_record,
)
from engines.tensorrt_program import Tensors
from engines.tensorrt_stepper import PLACES, capacity_for
from engines.torch_engine import TorchEngine
from tests.engines import test_contract as contract
from tests.portable import load_graphs, tiny_source

CHUNK = 100
"""Tokens of a pass here: more than one chunk of the delta rule, and less than the contract's
longest prompts, which so run in pieces."""
SIZE, MAX_LENGTH, MAX_BATCH = 64, 400, 8
TOLERANCE = 1e-4
DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.INT64: "int64", ir.DataType.UINT8: "uint8"}

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class OnnxContext:
    """Stands in for a plan's context: reads and fills PyTorch's buffers on the CPU."""

    capturable = False

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        assert all(each.is_contiguous() for each in (*inputs.values(), *outputs.values()))
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        found = self._session.run(list(outputs), feeds)
        for tensor, array in zip(outputs.values(), found, strict=True):
            assert tensor.shape == array.shape
            tensor.copy_(torch.from_numpy(array))


class OnnxProgram:
    """Stands in for a plan."""

    def __init__(self, graph: ir.Model) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        data = ir.to_proto(graph).SerializeToString()
        self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def context(self, profile: int) -> OnnxContext:
        return OnnxContext(self._session)

    def close(self) -> None:
        del self._session


def graph_record(part: str, graph: ir.Model) -> GraphRecord:
    inputs, outputs = (
        tuple(TensorSpec(v.name or "", DTYPES[v.dtype], _shape(v)) for v in values)  # type: ignore[index]
        for values in (graph.graph.inputs, graph.graph.outputs)
    )
    return GraphRecord(f"{part}.plan", 1, False, inputs, outputs, ({},))


def _shape(value: ir.Value) -> tuple[int | str, ...]:
    assert value.shape is not None
    return tuple(n if isinstance(n, int) else str(n.value) for n in value.shape)


@pytest.fixture(scope="module")
def record() -> PlanRecord:
    graphs = load_graphs("qwen3_5")
    return PlanRecord(
        engine="tensorrt-rtx",
        version="1.7.1.116",
        targets=("sm89", "sm120"),
        device=None,
        precision="fp32",
        refittable=False,
        max_length=MAX_LENGTH,
        max_batch=MAX_BATCH,
        chunk=CHUNK,
        graphs={part: graph_record(part, graph) for part, graph in graphs.items()},
    )


@pytest.fixture(scope="module")
def engine(record: PlanRecord) -> Iterator[Engine]:
    programs = {
        part: OnnxProgram(inline(graph, CHUNK)) for part, graph in load_graphs("qwen3_5").items()
    }
    with TensorRtEngine(record, programs, torch.device("cpu")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference() -> Engine:
    return TorchEngine.from_source(tiny_source("qwen3_5"), SIZE)


# What every engine must do, with the fixtures of this file.
test_vision = contract.test_vision
test_decode = contract.test_decode
test_logits_to_keep = contract.test_logits_to_keep
test_pieces_give_what_the_whole_gives = contract.test_pieces_give_what_the_whole_gives
test_a_state_is_a_value = contract.test_a_state_is_a_value
test_states_survive_the_arrays = contract.test_states_survive_the_arrays_they_came_from
test_left_padding_of_the_past_changes_nothing = (
    contract.test_left_padding_of_the_past_changes_nothing
)
test_every_engine_lists_the_same_state = contract.test_every_engine_lists_the_same_state


@pytest.mark.parametrize("length", [99, 100, 101, 250])
@pytest.mark.parametrize("keep", [1, 3, 0])
def test_long_prompts_run_in_pieces(
    engine: Engine, reference: Engine, length: int, keep: int
) -> None:
    ids = np.random.default_rng(length).integers(10, 300, (2, length))
    inputs = contract._step(engine, ids, 0, keep)
    found, state = engine.decode(inputs, engine.empty_state(2))
    expected, expected_state = reference.decode(inputs, reference.empty_state(2))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    for one, other in zip(
        engine.dump_state(state), reference.dump_state(expected_state), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


def test_more_pictures_than_a_plan_takes(engine: Engine, reference: Engine) -> None:
    shape = (MAX_BATCH + 3, SIZE, SIZE, 3)
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_allclose(engine.vision(pixels), reference.vision(pixels), atol=TOLERANCE)


def _start(engine: Engine, lengths: tuple[int, ...], room: int) -> tuple[Stepper, object]:
    """A stepper over rows of different lengths, the shorter ones padded at the left end."""
    longest, rows = max(lengths), []
    for row, length in enumerate(lengths):
        ids = np.random.default_rng(row).integers(10, 300, (1, length))
        _, state = engine.decode(contract._step(engine, ids, 0), engine.empty_state())
        rows.append([*engine.dump_state(state)])
    joined = []
    for index, spec in enumerate(engine.state):
        parts = [row[index] for row in rows]
        if (axis := spec.length_axis) is not None:
            parts = [
                np.pad(
                    part,
                    [(longest - part.shape[axis], 0) if n == axis else (0, 0) for n in range(4)],
                )
                for part in parts
            ]
        joined.append(np.concatenate(parts))
    state = engine.load_state(joined)
    mask = (np.arange(longest) >= longest - np.array(lengths)[:, None]).astype(np.int64)
    return engine.stepper(state, mask, np.array(lengths, np.int64), room), state


@pytest.mark.parametrize("lengths", [(5,), (3, 9), (9, 1, 4)])
def test_steps_equal_pytorch(engine: Engine, reference: Engine, lengths: tuple[int, ...]) -> None:
    steps = 7
    ours, state = _start(engine, lengths, steps)
    before = [array.copy() for array in engine.dump_state(state)]
    theirs, _ = _start(reference, lengths, steps)
    tokens = np.random.default_rng(7).integers(10, 300, (steps, len(lengths)))
    for each in tokens:
        np.testing.assert_allclose(ours.step(each), theirs.step(each), atol=TOLERANCE)
        for found, expected in zip(ours.dump(), theirs.dump(), strict=True):
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    for array, kept in zip(engine.dump_state(state), before, strict=True):
        assert np.array_equal(array, kept)


def test_two_loops_at_a_time_do_not_meet(engine: Engine) -> None:
    tokens = np.random.default_rng(7).integers(10, 300, (4, 1))
    alone, _ = _start(engine, (6,), 4)
    expected = [alone.step(each).copy() for each in tokens]
    one, state = _start(engine, (6,), 4)
    other = engine.stepper(state, np.ones((1, 6), np.int64), np.array([6]), 4)
    for each, logits in zip(tokens, expected, strict=True):
        assert np.array_equal(one.step(each), logits)
        assert np.array_equal(other.step(each), logits)


def test_a_step_uses_the_same_memory(engine: Engine) -> None:
    stepper, _ = _start(engine, (6,), 2)
    first = stepper.step(np.array([11]))
    assert np.shares_memory(stepper.step(np.array([13])), first)
    with pytest.raises(RuntimeError, match="room"):
        stepper.step(np.array([14]))


def test_buffers_have_few_sizes() -> None:
    assert [capacity_for(n, 1000) for n in (1, PLACES, PLACES + 1, 999)] == [256, 256, 512, 1000]


def test_rows_and_tokens_beyond_the_plans(engine: Engine) -> None:
    with pytest.raises(OptionError, match=f"build with --max-batch {MAX_BATCH + 1}"):
        engine.embed(np.ones((MAX_BATCH + 1, 2), np.int64))
    with pytest.raises(PromptError, match=f"build with --max-length {MAX_LENGTH + 1}"):
        engine.embed(np.ones((1, MAX_LENGTH + 1), np.int64))
    _, state = _start(engine, (6,), 1)
    with pytest.raises(PromptError, match="sequence of 406"):
        engine.stepper(state, np.ones((1, 6), np.int64), np.array([6]), MAX_LENGTH)


def test_a_record_survives_the_disk(record: PlanRecord, tmp_path: Path) -> None:
    record.write(tmp_path)
    assert read_record(tmp_path) == record


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"graphs": {}}', '{"targets": [], "graphs": {"vision": {}}}']
)
def test_an_edited_record(text: str, tmp_path: Path) -> None:
    (tmp_path / RECORD_NAME).write_text(text)
    with pytest.raises(BundleError, match=RECORD_NAME):
        read_record(tmp_path)


def test_no_record(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="--engine tensorrt"):
        read_record(tmp_path)


def test_plans_of_another_version(record: PlanRecord) -> None:
    with pytest.raises(BundleError, match=r"1\.7\.1\.116, and 1\.8\.0 is installed"):
        check_target(record, "1.8.0", "sm89", "RTX 4090")


def test_plans_of_another_gpu(record: PlanRecord) -> None:
    check_target(record, record.version, "sm120", "RTX 5090")
    with pytest.raises(
        BundleError, match=r"sm89, sm120, and this GPU is sm86 \(RTX 3090\)"
    ) as info:
        check_target(record, record.version, "sm86", "RTX 3090")
    assert info.value.fix.endswith("--compute-capability sm86")
    portable = replace(record, targets=())
    check_target(portable, record.version, "sm86", "RTX 3090")
    with pytest.raises(BundleError, match="sm80 and later"):
        check_target(portable, record.version, "sm75", "RTX 2080")


def test_a_plan_of_tensorrt_names_its_gpu(record: PlanRecord) -> None:
    built = replace(record, engine="tensorrt", targets=("sm90",), device="H200")
    with pytest.raises(BundleError, match=r"sm90 \(H200\)") as info:
        check_target(built, built.version, "sm89", "RTX 4090")
    assert info.value.fix == "build the bundle again with --engine tensorrt"


def test_plans_of_another_gpu_of_the_same_capability(record: PlanRecord) -> None:
    """TensorRT itself would load them and warn."""
    built = replace(record, engine="tensorrt", targets=("sm90",), device="H200")
    warning = check_target(built, built.version, "sm90", "H100")
    assert warning is not None
    assert "built on H200 run on H100" in warning and "--engine tensorrt" in warning
    assert check_target(built, built.version, "sm90", "H200") is None
    assert check_target(replace(built, device=None), built.version, "sm90", "H100") is None
    assert check_target(replace(record, device="RTX 4090"), record.version, "sm89", "L40") is None


def test_opening_them_says_so(
    record: PlanRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    plans = plans_folder(tmp_path, "tensorrt")
    plans.mkdir(parents=True)
    replace(record, engine="tensorrt", targets=("sm90",), device="H200").write(plans)
    library = SimpleNamespace(__version__=record.version)
    graphs = load_graphs("qwen3_5")
    parts = {graph.file: part for part, graph in record.graphs.items()}
    for name, stand_in in {
        "load_library": lambda name: library,
        "cuda_device": lambda name, device: torch.device("cpu"),
        "capability_of": lambda device: "sm90",
        "PlanProgram": lambda *given: OnnxProgram(graphs[parts[given[3].file]]),
    }.items():
        monkeypatch.setattr(tensorrt_engine, name, stand_in)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    with TensorRtEngine.open(tmp_path):
        assert "built on H200 run on H100" in caplog.text


@pytest.mark.parametrize(("name", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "tensorrt-rtx")])
def test_a_missing_library_names_its_extra(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tensorrt_library.MODULES, name, ("no_such_package_here",))
    with pytest.raises(MissingEngineError, match=rf"pip install 'art-export\[{extra}\]'"):
        load_library(name)


def test_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_tensorrt.py").write_text("raise OSError('libnvinfer.so.11 not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(tensorrt_library.MODULES, "tensorrt", ("broken_tensorrt",))
    with pytest.raises(MissingEngineError, match=r"libnvinfer\.so\.11 not found"):
        load_library("tensorrt")


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TensorRtRtxEngine.unavailable() == "there is no CUDA device"
    with pytest.raises(MissingEngineError, match="no CUDA device"):
        TensorRtRtxEngine.open(tmp_path)


def test_a_device_of_another_kind() -> None:
    with pytest.raises(OptionError, match="device 'cpu'"):
        cuda_device("tensorrt", "cpu")


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path("x.timing") == tmp_path / "art-export" / "tensorrt" / "x.timing"


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("kind", [TensorRtEngine, TensorRtRtxEngine])
def test_on_a_gpu(kind: type[TensorRtEngine], reference: Engine, tmp_path: Path) -> None:
    """The whole of it: plans for this GPU, vision, prefill and a captured decode loop."""
    from art_export.compilers import CompileOptions
    from art_export.compilers.tensorrt import compile_graphs

    pytest.importorskip(tensorrt_library.MODULES[kind.name][0])
    options = CompileOptions(kind.name, "fp32", SIZE, MAX_LENGTH, MAX_BATCH)
    compile_graphs(load_graphs("qwen3_5"), tmp_path, options, lambda stage: None)
    assert plans_folder(tmp_path, kind.name).is_dir()
    with kind.open(tmp_path, EngineOptions()) as engine:
        contract.test_vision(engine, reference)
        contract.test_decode(engine, reference, 2, 65)
        contract.test_a_state_is_a_value(engine)
        ours, _ = _start(engine, (3, 9), 20)
        theirs, _ = _start(reference, (3, 9), 20)
        for each in np.random.default_rng(7).integers(10, 300, (20, 2)):
            np.testing.assert_allclose(ours.step(each), theirs.step(each), atol=1e-3)
