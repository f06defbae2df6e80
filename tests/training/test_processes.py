"""Two real processes on the CPU against one: the same gradient, the same picture, one voice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.errors import OptionError
from engines.picture import load_picture
from tests.training.fakes import BigramLearner, loop_options, objective_of
from training import processes
from training.loop import Loop
from training.objectives.sft import loss as sft
from training.options import TrainOptions
from training.run import plain, train
from training.store import RunFolder

SIZE, STEPS = 64, 4
Found = dict[str, list[dict[str, Any]]]


def options_of(model: Path, out: Path, **changes: Any) -> TrainOptions:
    """Batches of 5 rows of unlike lengths: the processes' shares are never equal."""
    options = TrainOptions(
        model=str(model),
        task="tools",
        out=out,
        size=SIZE,
        steps=STEPS,
        lr=1.0,
        batch_size=5,
        examples=20,
        validation_examples=5,
        validate_every=2,
        checkpoint_every=2,
        controls=False,
    )
    return replace(options, **changes)


def pairs(path: Path) -> Path:
    lines = [
        {"prompt": f"say {i}", "chosen": f"number {i}", "rejected": f"{i} is it"} for i in range(30)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


RUNS: dict[str, dict[str, Any]] = {
    "sft": {"accumulate": 2, "variation": 0.1, "robust": ("noise",)},
    "lonely": {"batch_size": 1, "steps": 2},
    "grpo": {
        "objective": "grpo",
        "steps": 2,
        "settings": {"group": 3, "max_new_tokens": 6, "reward": "tool", "kl": 0.1},
    },
    "distill": {"objective": "distill", "steps": 2, "settings": {"answers": "reference"}},
    "dpo": {"objective": "dpo", "steps": 2, "examples": None},
}
"""What is trained by two processes and by one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def runs(tiny_model_dir: Path, folder: Path) -> dict[str, TrainOptions]:
    made = {
        name: options_of(tiny_model_dir, folder / name, **changes) for name, changes in RUNS.items()
    }
    made["dpo"] = replace(made["dpo"], task=str(pairs(folder / "pairs.jsonl")))
    return made


@pytest.fixture(scope="module")
def two(runs: dict[str, TrainOptions], folder: Path) -> Found:
    """What every run came to in each of two processes."""
    tasks: list[dict[str, Any]] = [
        {"name": name, "options": plain(options)} for name, options in runs.items()
    ]
    stopped = replace(runs["sft"], out=folder / "stopped")
    tasks += [
        {"name": "nan", "options": plain(replace(stopped, out=folder / "nan")), "event": "nan"},
        {"name": "stopped", "options": plain(stopped), "event": "interrupt"},
        {"name": "resumed", "options": plain(replace(stopped, resume=True))},
        {"name": "again", "options": plain(runs["sft"])},
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    launch(["-m", "tests.training.parallel_worker", str(folder / "tasks.json")])
    return {
        task["name"]: [
            json.loads((folder / f"{task['name']}-{index}.json").read_text()) for index in (0, 1)
        ]
        for task in tasks
    }


def launch(arguments: list[str], status: int = 0) -> str:
    """Two processes; what they say."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == (status == 0), said[-4000:]
    return said


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_near(one: Any, two: Any) -> None:
    """The same keys, and numbers that differ by rounding."""
    assert one.keys() == two.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_near(value, two[name])
        else:
            assert two[name] == pytest.approx(value, rel=2e-5, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_are_one_with_the_joint_batch(
    two: Found, runs: dict[str, TrainOptions], folder: Path, name: str
) -> None:
    both = two[name]
    assert [found["error"] for found in both] == [None, None]
    assert both[0]["picture"] == both[1]["picture"]
    alone = replace(runs[name], out=folder / f"{name}-alone")
    train(alone)
    together, single = metrics(runs[name].out), metrics(alone.out)
    assert len(together) == len(single)
    for ours, theirs in zip(together, single, strict=True):
        assert_near(theirs, ours)
    pictures = [
        load_picture(out / "art.png", SIZE).pixels.astype(int)
        for out in (runs[name].out, alone.out)
    ]
    moved = np.abs(pictures[0] - pictures[1])
    # Gradients differ by rounding, which may tip a colour over to the next level.
    assert moved.max() <= 1
    assert (moved > 0).mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_no_process_changes_a_weight(two: Found, name: str) -> None:
    assert all(found["unchanged"] and found["gradients"] == 0 for found in two[name])


@pytest.mark.slow
def test_what_happens_in_one_process_stops_both(two: Found) -> None:
    assert [found["error"] for found in two["nan"]] == ["CheckFailed", "CheckFailed"]
    assert "diverged at step" in two["nan"][1]["message"]
    assert [found["error"] for found in two["stopped"]] == ["Interrupted", "Interrupted"]


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(two: Found, folder: Path) -> None:
    assert two["resumed"] == two["sft"]
    for name in ("art.png", "metrics.jsonl", "strip.png"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "sft" / name).read_bytes()


@pytest.mark.slow
def test_a_folder_in_use_is_refused_in_both_processes_with_one_voice(
    two: Found, runs: dict[str, TrainOptions]
) -> None:
    assert [found["error"] for found in two["again"]] == ["OutputExistsError", "StoppedElsewhere"]
    options = runs["sft"]
    arguments = ["train", options.model, "--task", "tools", "-o", str(options.out)]
    said = launch(["-m", "art_export.cli.main", *arguments, "--size", str(SIZE)], status=1)
    assert said.count("which exists") == 1


@pytest.mark.slow
def test_the_record_tells_how_many_processes_there_were(
    two: Found, runs: dict[str, TrainOptions]
) -> None:
    record = json.loads((runs["sft"].out / "run.json").read_text())
    assert record["processes"] == 2


def test_one_process_needs_no_launcher() -> None:
    assert (processes.count(), processes.index(), processes.is_main()) == (1, 0, True)
    assert processes.gathered("here") == ["here"]
    assert processes.from_main(lambda: 3) == 3
    assert processes.own_device("cuda") == "cuda"


def test_other_processes_end_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        with processes.main_speaks():
            raise OptionError("this", "that", "do so")

    with pytest.raises(OptionError):
        refuse()
    monkeypatch.setattr(processes, "index", lambda: 1)
    with pytest.raises(SystemExit) as ended:
        refuse()
    assert ended.value.code == 2


def test_a_learner_that_does_not_join_processes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(OptionError, match="single process"):
        Loop(
            BigramLearner(tmp_path),
            objective_of(sft),
            loop_options(),
            RunFolder(tmp_path / "run"),
            {},
        )
