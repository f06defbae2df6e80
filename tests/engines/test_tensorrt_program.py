"""How a plan's context is driven, on a recorder in the place of the library's context."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engines.tensorrt_plan import GraphRecord
from engines.tensorrt_program import PlanContext

STREAM = 77


class Recorder:
    """Takes what an execution context is told, in order."""

    def __init__(self, needed: int = 512, fail: str | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._needed, self._fail = needed, fail

    def _told(self, *call: Any) -> bool:
        self.calls.append(call)
        return bool(call[0] != self._fail)

    def set_tensor_address(self, name: str, address: int) -> bool:
        return self._told("address", name, address)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return self._told("shape", name, shape)

    def update_device_memory_size_for_shapes(self) -> int:
        self._told("size")
        return self._needed

    def set_device_memory(self, address: int, size: int) -> None:
        self._told("memory", address, size)

    def execute_async_v3(self, stream: int) -> bool:
        return self._told("execute", stream)


@pytest.fixture(autouse=True)
def _stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(cuda_stream=STREAM)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)


def _context(recorder: Any, control_flow: bool = False) -> PlanContext:
    graph = GraphRecord("x.plan", 1, control_flow, (), (), ())
    logger = SimpleNamespace(errors=["this is why"])
    return PlanContext(recorder, graph, logger, torch.device("cpu"))


def test_everything_is_known_before_it_runs() -> None:
    recorder = Recorder()
    inputs = {"x": torch.zeros(2, 3), "keep": torch.tensor(1), "past": torch.zeros(2, 0)}
    outputs = {"y": torch.zeros(2, 4)}
    _context(recorder).run(inputs, outputs)
    calls = recorder.calls
    assert [call[0] for call in calls[-3:]] == ["size", "memory", "execute"]
    assert calls[-1] == ("execute", STREAM)
    shapes = [call[1:] for call in calls if call[0] == "shape"]
    assert shapes == [("x", (2, 3)), ("past", (2, 0))]
    addresses = {call[1]: call[2] for call in calls if call[0] == "address"}
    assert list(addresses) == ["x", "keep", "past", "y"]
    assert addresses["x"] == inputs["x"].data_ptr() and addresses["past"] != 0


def test_memory_is_kept_until_more_is_needed() -> None:
    recorder = Recorder(needed=512)
    context = _context(recorder)
    for needed in (512, 256, 4096):
        recorder._needed = needed
        context.run({}, {})
    memory = [call[1:] for call in recorder.calls if call[0] == "memory"]
    assert memory[0] == memory[1]
    assert [size for _, size in memory] == [512, 512, 4096]


@pytest.mark.parametrize("fail", ["address", "shape", "execute"])
def test_a_refusal_is_an_error(fail: str) -> None:
    with pytest.raises(RuntimeError, match="this is why"):
        _context(Recorder(fail=fail)).run({"x": torch.zeros(1)}, {})


def test_capture_is_the_librarys_to_allow() -> None:
    asked = SimpleNamespace(is_stream_capturable=lambda stream: stream == STREAM)
    assert _context(asked, control_flow=True).capturable
    silent = SimpleNamespace()
    assert _context(silent).capturable
    assert not _context(silent, control_flow=True).capturable
