from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from benchmarks import cells as module
from benchmarks.cells import COUNT, Cells, Place, Prompted, after, folder_of
from engines.chat import Chat
from engines.environment import cpu
from engines.files import write_json
from engines.model import resolve_model
from engines.runtime import Runtime
from engines.torch_engine import TorchEngine
from training.tasks import TASKS
from training.teacher import TeacherPrompt

ABOUT = {"model": "demo"}
TOOLS = TASKS["tools"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With a bundle, so that none is built."""
    (tmp_path / "bundle").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    source = resolve_model("demo")
    return Runtime(TorchEngine.from_source(source, 256), Chat.load(source.path, 256))


def test_a_cell_is_measured_once_and_the_rest_later(home: Path) -> None:
    asked: list[str] = []

    def measure(place: Place) -> dict[str, Any]:
        asked.append(place.home.name)
        return {"accuracy": 0.5}

    path = home / "results.json"
    for seeds in ([0], [0, 1]):
        wanted = [("LoRA r=8", TOOLS, seed) for seed in seeds]
        Cells(path, ABOUT).measure(wanted, {"LoRA r=8": measure}, home)
    assert asked == ["tools-LoRA-r=8-0", "tools-LoRA-r=8-1"]
    kept = json.loads(path.read_text())
    assert kept["model"] == "demo"
    assert kept["environment"]["cores"] >= 1
    cell = {"task": "tools", "way": "LoRA r=8", "seed": 1, "accuracy": 0.5, "cpu": cpu()}
    assert kept["cells"]["tools/LoRA r=8/1"] == cell


def test_no_cell_is_lost_when_several_write_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads for processes: a lock is that of an open file, and each opens its own."""
    path = home / "results.json"

    def slowly(path: Path, content: Any) -> None:
        time.sleep(0.01)
        write_json(path, content)

    monkeypatch.setattr(module, "write_json", slowly)

    def add(seed: int) -> None:
        Cells(path, ABOUT).measure([("one", TOOLS, seed)], {"one": lambda place: {}}, home)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert len(json.loads(path.read_text())["cells"]) == 24


def test_what_fails_leaves_the_cells_before_it(home: Path) -> None:
    def fails(place: Place) -> dict[str, Any]:
        raise RuntimeError("stop")

    path, ways = home / "results.json", {"one": lambda place: {"n": 1}, "two": fails}
    wanted = [("one", TOOLS, 0), ("two", TOOLS, 0)]
    with pytest.raises(RuntimeError, match="stop"):
        Cells(path, ABOUT).measure(wanted, ways, home)
    assert list(json.loads(path.read_text())["cells"]) == ["tools/one/0"]


def test_results_of_another_model_are_not_mixed(home: Path) -> None:
    path = home / "results.json"
    Cells(path, ABOUT).measure([("one", TOOLS, 0)], {"one": lambda place: {}}, home)
    with pytest.raises(click.ClickException, match="another model"):
        Cells(path, {"model": "other"})


def test_folders_of_cells_are_one_name() -> None:
    assert folder_of("ART epsilon 32/255", "math", 2) == "math-ART-epsilon-32-255-2"


def test_cpu_seconds_add_up_over_parts_and_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    place, resumed = Place(TOOLS, 0, tmp_path, tmp_path), []

    def train(run: Path, resume: bool) -> SimpleNamespace:
        resumed.append(resume)
        run.mkdir(exist_ok=True)
        if not resume:
            (run / "checkpoint.pt").touch()
            raise KeyboardInterrupt
        result = {"seconds": 2.0, "steps": 5, "step": 4, "score": 0.5}
        (run / "run.json").write_text(json.dumps({"result": result}))
        return SimpleNamespace(**result)

    with pytest.raises(KeyboardInterrupt):
        place.trained(train)
    (tmp_path / "cpu.json").write_text("10.0")
    place.trained(train)
    again = place.trained(train)
    assert resumed == [False, True]
    cost = place.cost(again)
    assert cost["cpu_seconds"] >= 10.0
    assert (cost["steps"], cost["best_step"], cost["validation"]) == (5, 4, 0.5)


def test_marks_are_in_the_order_of_the_examples(tmp_path: Path) -> None:
    place = Place(TOOLS, 0, tmp_path, tmp_path)
    examples = TOOLS.examples("test", COUNT)
    right = {example.prompt: example.answer for example in examples[::3]}
    found = place.score(lambda prompts: [right.get(prompt, "") for prompt in prompts])
    assert [mark == "1" for mark in found["marks"]] == [
        example.prompt in right for example in examples
    ]
    assert found["correct"] == len(right)
    assert found["low"] < found["accuracy"] < found["high"]


def test_a_prompt_with_its_shared_part_cached_is_the_whole_prompt(runtime: Runtime) -> None:
    hint = TOOLS.hints["json"][0]
    asked = Prompted.of(runtime, TeacherPrompt((), f"Be short. {{prompt}} {hint}"))
    (example,) = TOOLS.examples("test", 1)
    assert 0 < len(asked.shared) < len(asked.whole(example.prompt))
    bare = after(runtime, TOOLS, runtime.prefix(None))
    (wanted,) = bare([f"Be short. {example.prompt} {hint}"])
    assert asked.completer(TOOLS)([example.prompt]) == [wanted]
